"""Is there an OpenAI endpoint at a URL, and which model does it serve? Asked before anything else."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin

import httpx

from overspan.endpoint.client import NoAnswer, body_of
from overspan.endpoint.moved import MOST_HOPS, REDIRECTS, same_server
from overspan.endpoint.replies import error_text
from overspan.endpoint.target import EndpointTarget, make_target, shown_url
from overspan.schema.errors import HostUnreachable, InputError, UnknownName
from overspan.schema.paste import command
from overspan.schema.secrets import Secret
from overspan.store.run_secrets import given

_TIMEOUT_S: Final = 20.0
_NO_LIST: Final = (404, 405, 410, 501)
"""How a gateway without a list of models answers."""
_NAME_IT: Final = "name one with --model"
_LONGEST_LIST_BYTES: Final = 4 << 20
"""A hundred thousand models are this much."""


@dataclass(frozen=True)
class ServedModel:
    """A model that an endpoint serves, which no run of ours belongs to."""

    base_url: str
    model: str


def identify(target: EndpointTarget, model: str | None = None) -> ServedModel:
    """The endpoint at a target, with the model that was named or the only one that it serves.

    Raises:
        HostUnreachable: nothing answers there.
        InputError: what answers is not an OpenAI endpoint, or it wants a key; UnknownName for a wrong model.
    """
    url = target.base_url
    served = _served(target, named=model is not None)
    if not served and model is not None:
        return ServedModel(url, model)
    if model is None and len(served) == 1:
        return ServedModel(url, served[0])
    if model is None:
        raise InputError(
            f"{url} serves {len(served)} models", next=f"--model with one of {', '.join(map(command, served))}"
        )
    if model not in served:
        raise UnknownName("model", model, served, next=f"{url} serves: {', '.join(served)}")
    return ServedModel(url, model)


def at_url(base_url: str, model: str | None) -> tuple[ServedModel, Secret | None]:
    """As `identify`, for who asks without a load: with the key in OVERSPAN_API_KEY, and through no proxy."""
    key = given()
    return identify(make_target(base_url, key, proxies=False), model), key


def _served(target: EndpointTarget, *, named: bool) -> list[str]:
    """The models that it lists; none where it lists none and one was named."""
    url = f"{target.base_url}/models"
    try:
        with target.http_client(_TIMEOUT_S) as client:
            reply, body = _listed(client, url)
    except httpx.HTTPError as error:
        raise _unreachable(target, error) from None
    except NoAnswer as error:
        what = f"{url} is not an OpenAI endpoint: its answer had no end ({error.what})"
        raise InputError(what, next="give the URL that ends in /v1") from None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    said = body[:200].decode("utf-8", "replace").strip() if document is None else error_text(document, 200)
    quote = target.hide(said) or None
    if named and (reply.status_code in _NO_LIST or (reply.status_code == 200 and _empty(document))):
        return []
    if reply.status_code in REDIRECTS:
        raise leads_away(url, reply.status_code, reply.headers.get("location", ""))
    if reply.status_code != 200:
        raise _refused(url, reply.status_code, quote)
    try:
        served = [item["id"] for item in document["data"]] if isinstance(document, dict) else []
    except (KeyError, TypeError):
        served = []
    if not served or not all(isinstance(name, str) for name in served):
        what = f"{url} is not an OpenAI endpoint: its answer lists no model"
        raise InputError(what, quote=quote, next=f"give the URL that ends in /v1, or {_NAME_IT}")
    return served


def _empty(document: object) -> bool:
    return isinstance(document, dict) and not document.get("data")


def _listed(client: httpx.Client, url: str) -> tuple[httpx.Response, bytes]:
    """The answer to a question for models, and its body; on the same server a redirect is followed."""
    for _ in range(MOST_HOPS):
        with client.stream("GET", url) as reply:
            body = b"".join(body_of(reply, url, most_bytes=_LONGEST_LIST_BYTES, longest_s=_TIMEOUT_S))
        to = same_server(url, reply.headers.get("location", "")) if reply.status_code in REDIRECTS else None
        if to is None:
            break
        url = to
    return reply, body


def leads_away(url: str, status: int, location: str) -> InputError:
    """What to say of a redirect that is not followed: to another server, or one that would make a POST a GET."""
    to = shown_url(urljoin(url, location)) if location else "nowhere"
    return InputError(
        f"{url} sends its requests on to {to} (HTTP {status}); nothing is sent there, and no key",
        next=f"give that server's own URL, which ends in /v1, if it is the right one: --base-url {_base(to)}",
    )


def _base(url: str) -> str:
    """What a base URL would be, of the URL of one of its paths."""
    return re.sub(r"/(models|chat/completions|completions)/?$", "", url)


def _unreachable(target: EndpointTarget, error: httpx.HTTPError) -> HostUnreachable:
    where, hint = target.base_url, "overspan list, or check --base-url"
    if "CERTIFICATE" in str(error):
        hint = "name the CA's file in SSL_CERT_FILE, or give --insecure"
    elif target.proxy:
        where, hint = f"{where} through the proxy {target.proxy}", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    return HostUnreachable(f"{where} does not answer: {str(error) or type(error).__name__}", next=hint)


def _refused(url: str, status: int, quote: str | None) -> InputError:
    if status in (401, 403):
        return InputError(f"{url} wants a key (HTTP {status})", next="set OVERSPAN_API_KEY and run it again")
    if status == 429:
        return InputError(f"{url} limits requests (HTTP 429)", quote=quote, next="wait, or raise the server's limit")
    hint = "give the URL that ends in /v1"
    if status in _NO_LIST:
        hint += f"; where a server lists no models, {_NAME_IT}"
    elif status >= 500:
        return InputError(f"{url} answers HTTP {status}", quote=quote, next="look at the server's log")
    return InputError(f"{url} is not an OpenAI endpoint: HTTP {status}", quote=quote, next=hint)
