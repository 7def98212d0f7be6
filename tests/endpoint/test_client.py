"""The one client."""

import ssl
from typing import Any

import httpx
import pytest

from overspan.endpoint.client import http_client


@pytest.mark.parametrize(("url", "checked"), [("https://x/v1", True), ("", True), ("http://x/v1", False)])
def test_a_certificate_is_checked_unless_there_is_none(
    monkeypatch: pytest.MonkeyPatch, url: str, checked: bool
) -> None:
    made: list[object] = []
    client = httpx.Client

    def noted(**how: Any) -> httpx.Client:
        made.append(how["verify"])
        return client(**how)

    monkeypatch.setattr(httpx, "Client", noted)
    http_client(url, None, 1.0).close()
    (tls,) = made
    assert isinstance(tls, ssl.SSLContext) == checked
    assert not isinstance(tls, ssl.SSLContext) or tls.verify_mode == ssl.CERT_REQUIRED
