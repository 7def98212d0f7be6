"""Where requests go, and what a message may repeat of a URL."""

import pytest

from overspan.endpoint.target import make_target, shown_url
from overspan.schema.errors import HostUnreachable, InputError


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@x/v1",
        "http://hunter2@x/v1",
        "http://u:hunter2/3@x/v1",
        "http://u:1?hunter2@x/v1",
        "http://u:1#hunter2@x/v1",
        "http://u:p@hunter2@x/v1",
        "u:hunter2@x/v1",
        "http://u:hunter2@x://y",
        "http://x/v1?key=hunter2",
        "http://x/v1?hunter2",
        "http://x/v1?a=1&key=hunter2",
        "http://x/v1?key=a@hunter2",
        "http://x/v1#hunter2",
        "http://x/v1 ?key=hunter2",
        "x/v1?key=hunter2",
        "http://[x/v1?key=hunter2",
        "http://x:0/v1?key=hunter2",
    ],
)
def test_a_secret_in_a_base_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError) as caught:
        make_target(url)
    assert "hunter2" not in f"{caught.value.what}{caught.value.next}{caught.value.quote}"


@pytest.mark.parametrize("url", ["http://x/v1#a", "http://x/v1中", "x", "", "ftp://x/v1", "http://x:0/v1", "http:// x"])
def test_what_a_base_url_may_not_be(url: str) -> None:
    with pytest.raises(InputError, match=r"is not a base URL|has a query or a fragment"):
        make_target(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("https://me:secret@x/v1", "https://[removed]@x/v1"),
        ("https://x/v1?key=secret", "https://x/v1?[removed]"),
        ("https://x/v1#secret", "https://x/v1#[removed]"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize("host", ["xn--", "a" * 64, "nowhere.invalid"])
def test_a_name_that_is_none_does_not_resolve(host: str) -> None:
    with pytest.raises(HostUnreachable, match="does not resolve"):
        make_target(f"http://{host}/v1", proxies=False)
