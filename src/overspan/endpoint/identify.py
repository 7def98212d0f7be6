"""Is there an OpenAI endpoint at a URL, and which model does it serve? Asked before anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from overspan.schema.errors import InputError, UnknownName

_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Address:
    """An endpoint that no run of ours belongs to."""

    base_url: str
    model: str


def identify(base_url: str, model: str | None = None, api_key: str | None = None) -> Address:
    """The endpoint at a URL, with the model that was named or the only one that it serves.

    Raises:
        InputError: no URL, nothing answers there, or what answers is no OpenAI endpoint.
        UnknownName: it does not serve that model.
    """
    url = base_url.rstrip("/")
    _check(url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.get(f"{url}/models", headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
        raise InputError(
            f"{url} does not answer: {str(error) or type(error).__name__}", next="overspan list, or check --base-url"
        ) from None
    served = _served(reply, url)
    if model is None and len(served) == 1:
        return Address(url, served[0])
    if model is None:
        raise InputError(f"{url} serves {len(served)} models", next=f"--model with one of {', '.join(served)}")
    if model not in served:
        raise UnknownName("model", model, served, next=f"{url} serves: {', '.join(served)}")
    return Address(url, model)


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise InputError(f"'{url}' is not a base URL", next="give it like http://127.0.0.1:8000/v1")


def _served(reply: httpx.Response, url: str) -> list[str]:
    if reply.status_code in (401, 403):
        raise InputError(f"{url} wants a key (HTTP {reply.status_code})", next="set OVERSPAN_API_KEY and run it again")
    if reply.status_code != 200:
        hint = "a base URL ends in /v1" if reply.status_code == 404 else "look at the server's log"
        raise InputError(f"{url} is not an OpenAI endpoint: HTTP {reply.status_code}", next=hint)
    try:
        served = [item["id"] for item in reply.json()["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        served = []
    if not served or not all(isinstance(name, str) for name in served):
        raise InputError(
            f"{url} is not an OpenAI endpoint: its answer lists no model",
            quote=reply.text[:200].strip() or None,
            next="give the URL that ends in /v1",
        )
    return served
