"""`overspan bench` as a person meets it."""

from __future__ import annotations

import json

import pytest

from overspan.cli.main import main
from support import openai_server as fake
from support.openai_server import serving


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


SMALL = ("--requests", "4", "--input-tokens", "20", "--output-tokens", "4")


def test_json_is_a_list_of_points(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        assert call("--base-url", server.base_url, "-c", "1,2", *SMALL, "--json") == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["concurrency"] for point in points] == [1, 2]
    assert points[0]["requests"] == {"planned": 4, "ok": 4, "failed": 0, "errors": {}}
    assert points[1]["client_bound"] in (True, False)


def test_the_table_and_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        assert call("--base-url", server.base_url, "-c", "2", *SMALL) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[:3] == ["users", "ok", "failed"]
    assert shown.out.splitlines()[2].split()[:3] == ["2", "4", "0"]
    assert "set by the server's count" in shown.err


@pytest.mark.parametrize("users", ["0", "1,,2", "a", "1;2", "-1", "1,4,1", "", "1.5"])
def test_a_malformed_list(users: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--base-url", "http://127.0.0.1:9/v1", "-c", users) == 2
    assert "concurrency" in capsys.readouterr().err


def test_every_request_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def once(body: dict[str, object], send: fake.Send, number: int) -> None:
        (fake.steady() if number == 0 else lambda *_: send(fake.plain("500 Oops", b"{}")))(body, send, number)

    with serving(once) as server:
        assert call("--base-url", server.base_url, "-c", "2", *SMALL) == 1
    assert "4 failed: http_500" in capsys.readouterr().err


def test_a_dead_url_ends_with_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        url = server.base_url
    assert call("--base-url", url, *SMALL) == 4
    assert "does not answer" in capsys.readouterr().err


def test_run_and_url_exclude_each_other() -> None:
    assert call("some-run", "--base-url", "http://127.0.0.1:9/v1") == 2
