"""A small client of an OpenAI endpoint: one real token, whole and streamed answers. The load generator is not this."""

from __future__ import annotations

import json
import re
import ssl
import time
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol
from urllib.parse import urljoin

import httpx

from overspan.endpoint.moved import KEEP_THE_METHOD, MOST_HOPS, same_server
from overspan.endpoint.replies import STRANGE, ModelReply, StreamedReply, is_of_others, reply_of, text_of
from overspan.endpoint.target import shown_url
from overspan.schema.errors import OverspanError
from overspan.schema.secrets import Secret, authorization

_CONNECT_S = 5.0
"""A connection on a fabric never takes longer."""
MOST_BYTES: Final = 64 * 2**20
"""Of one answer. The longest that is asked for, with log probabilities of its prompt, takes a few of them."""
NEWER_LIMIT: Final = "max_completion_tokens"
"""In place of max_tokens, which OpenAI's reasoning models refuse. Source: OpenAI's API reference, chat completions."""
FIELDS: Final = ("max_tokens", "temperature", "stream_options")
"""Fields without which a question is still the same, in a chat; a text's length has the one name max_tokens."""
_PATIENCE: Final = 12
"""An answer may take so many times as long as nothing may come: what drips or never ends is no answer."""


class NoAnswer(OverspanError):
    """The endpoint did not answer as an OpenAI endpoint does; `what` tells how."""


class Refused(NoAnswer):
    """It answered with an HTTP error."""

    def __init__(self, what: str, *, code: int, quote: str) -> None:
        super().__init__(what, quote=quote)
        self.code = code


class Addressed(Protocol):
    """Where a model answers: a run's endpoint, or any other."""

    @property
    def base_url(self) -> str:
        """The OpenAI base URL, with `/v1`."""

    @property
    def model(self) -> str:
        """The model's name in the API."""


def http_client(base_url: str, api_key: Secret | None, timeout: float | httpx.Timeout) -> httpx.Client:
    """A client for an endpoint of our own: no proxy of the environment is between us and it.

    Args:
        base_url: what its requests' paths are below. The certificate of one of https is checked.
        api_key: travels in a header.
        timeout: seconds that nothing may come.
    """
    tls = False if base_url.startswith("http:") else ssl.create_default_context()
    return httpx.Client(base_url=base_url, headers=authorization(api_key), timeout=timeout, verify=tls, trust_env=False)


def body_of(response: httpx.Response, url: str, *, most_bytes: int, longest_s: float) -> Iterator[bytes]:
    """The body of a response as it comes, which must end within bounds.

    Raises:
        NoAnswer: it does not.
    """
    until, size = time.monotonic() + longest_s, 0
    for part in response.iter_bytes():
        size += len(part)
        if size > most_bytes:
            raise NoAnswer(f"{url} sent more than {most_bytes >> 20} MiB in one answer")
        if time.monotonic() > until:
            raise NoAnswer(f"{url} did not end its answer within {longest_s:.0f} s")
        yield part


class Client:
    """Talks to one endpoint, greedily unless it is told otherwise; several threads may ask at once.

    An API key travels in a header and never reaches an error or a log.

    Args:
        endpoint: where.
        api_key: its key.
        timeout_s: how long nothing may come: the first token of a cold engine may compile for long.
    """

    def __init__(self, endpoint: Addressed, api_key: Secret | None = None, timeout_s: float = 120.0) -> None:
        self.model = endpoint.model
        self._base_url = endpoint.base_url
        self._api_key = api_key
        self._longest_s = timeout_s * _PATIENCE
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_S, pool=None)
        self._http = http_client(endpoint.base_url, api_key, timeout)
        self._refused: set[str] = set()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def one_token(self) -> str:
        """One real token of the model: what readiness means.

        Raises:
            NoAnswer: not yet, or never.
        """
        # Two tokens at least: one alone ends an engine whose cache is handed over in files (vLLM 0.32, docs/log.md).
        body = {"model": self.model, "prompt": "Hello there", "max_tokens": 1, "temperature": 0}
        reply = self.post("/completions", body)
        try:
            counted, text = reply["usage"]["completion_tokens"], str(reply["choices"][0].get("text", ""))
        except STRANGE:
            counted = None
        if not counted:
            raise NoAnswer(f"{self._base_url} answered without a token", quote=self._quote(json.dumps(reply)))
        return text

    def chat(self, prompt: str, max_tokens: int, *, stream: bool = False, **more: Any) -> ModelReply:
        """The answer to one message.

        Raises:
            NoAnswer: the endpoint refused or broke off, or what it sent is no chat answer.
        """
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, **more}
        return self._ask("/chat/completions", body, stream=stream)

    def complete(self, prompt: str, max_tokens: int, *, stream: bool = False, **more: Any) -> ModelReply:
        """How the model goes on after a text.

        Raises:
            NoAnswer: as of `chat`.
        """
        return self._ask("/completions", {"prompt": prompt, "max_tokens": max_tokens, **more}, stream=stream)

    def _ask(self, path: str, body: dict[str, Any], *, stream: bool) -> ModelReply:
        body = {"model": self.model, "temperature": 0, **body}
        try:
            if not stream:
                return reply_of(self.post(path, body))
            streamed = StreamedReply()
            for event in self.events(path, {**body, "stream_options": {"include_usage": True}}):
                streamed.add(event)
            return streamed.reply()
        except STRANGE as error:
            what = f"{self._base_url}{path} answered with a document that is no answer"
            raise NoAnswer(what, quote=f"{type(error).__name__}: {error}") from None

    def stream(self, messages: list[dict[str, str]], max_tokens: int, temperature: float = 0.0) -> Iterator[str]:
        """The reply to a conversation, piece by piece as it arrives.

        Raises:
            NoAnswer: the endpoint refused, broke off, or sent an error inside the stream.
        """
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
        for event in self.events("/chat/completions", body):
            try:
                pieces = [text_of(choice["delta"]) for choice in event["choices"]]
            except STRANGE:
                quote = self._quote(json.dumps(event))
                raise NoAnswer(f"{self._base_url} sent what is no chat event", quote=quote) from None
            yield from filter(None, pieces)

    def events(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed reply, as documents, in their order. Bytes that are no UTF-8 are an error.

        Raises:
            NoAnswer: the endpoint refused, broke off, or sent an error inside the stream.
        """
        try:
            with self._answer(path, {**body, "stream": True}) as response:
                name = b""
                for line in _lines(self._parts(response)):
                    if line.startswith(b"event:") or not line:
                        name = line[6:].strip()
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = self._event(data)
                    if not is_of_others(name, event):
                        yield event
        except httpx.HTTPError as error:
            raise NoAnswer(f"{self._base_url} broke off: {str(error) or type(error).__name__}") from None
        raise NoAnswer(f"{self._base_url} ended the stream before its end")

    def _event(self, line: bytes) -> dict[str, Any]:
        event = self._object(line, "sent what is no chat event")
        if "error" in event:
            quote = self._quote(line.decode(errors="replace"))
            raise NoAnswer(f"{self._base_url} sent an error in the stream", quote=quote)
        return event

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The document that answers a document.

        Raises:
            Refused: an HTTP error.
            NoAnswer: nothing, or what is no JSON object in UTF-8.
        """
        try:
            with self._answer(path, body) as response:
                content = b"".join(self._parts(response))
        except httpx.HTTPError as error:
            raise NoAnswer(f"{self._base_url} does not answer: {str(error) or type(error).__name__}") from None
        return self._object(content, "answered with what is no JSON object")

    @contextmanager
    def _answer(self, path: str, body: dict[str, Any]) -> Iterator[httpx.Response]:
        """The response to a POST. Fields that the server once refused by name are left out, or have their newer name;
        a redirect is followed on the same server alone."""
        url, hops, tried = self._base_url + path, 0, len(self._refused)
        while True:
            with self._http.stream("POST", url, json=self._without_refused(path, body)) as response:
                status = response.status_code
                to = same_server(url, response.headers.get("location", "")) if status in KEEP_THE_METHOD else None
                if to is not None and hops < MOST_HOPS:
                    url, hops = to, hops + 1
                    continue
                if status in (400, 422) and len(self._refused) < tried + len(FIELDS):
                    said = b"".join(body_of(response, url, most_bytes=MOST_BYTES, longest_s=self._longest_s))
                    if refused := self._named_in(said, path, body):
                        self._refused.add(refused)
                        continue
                    response = httpx.Response(status, content=said)  # noqa: PLW2901 - the same, read already
                yield response
                return

    def _without_refused(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in body.items() if name not in self._refused}
        if "max_tokens" in self._refused and "max_tokens" in body and path == "/chat/completions":
            kept[NEWER_LIMIT] = body["max_tokens"]
        return kept

    def _named_in(self, said: bytes, path: str, body: dict[str, Any]) -> str | None:
        """The field that a refusal names, of those that a server may lack."""
        text = said.decode(errors="replace")
        fields = FIELDS if path == "/chat/completions" else FIELDS[1:]
        found = (name for name in fields if name in body and name not in self._refused)
        return next((name for name in found if re.search(rf"\b{name}\b", text)), None)

    def _object(self, content: bytes, otherwise: str) -> dict[str, Any]:
        quote = self._quote(content[:4000].decode(errors="replace"))
        try:
            found = json.loads(content.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise NoAnswer(f"{self._base_url} sent bytes that are no UTF-8", quote=quote) from None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise NoAnswer(f"{self._base_url} {otherwise}", quote=quote)
        return found

    def _parts(self, response: httpx.Response) -> Iterator[bytes]:
        parts = body_of(response, self._base_url, most_bytes=MOST_BYTES, longest_s=self._longest_s)
        if response.status_code != 200:
            quote = self._quote(b"".join(parts).decode(errors="replace"))
            what = f"{self._base_url} answered HTTP {response.status_code}"
            if to := response.headers.get("location"):
                what += f", which sends on to {shown_url(urljoin(self._base_url, to))}: nothing was sent there"
            raise Refused(what, code=response.status_code, quote=quote)
        return parts

    def _quote(self, text: str) -> str:
        return (self._api_key.taken_out(text, "[removed]") if self._api_key else text)[:300]


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines as they come; httpx's own decoder would hide bytes that are no UTF-8."""
    rest, first = b"", True
    for part in parts:
        rest += part
        if first and len(rest) >= len(BOM_UTF8):
            rest, first = rest.removeprefix(BOM_UTF8), False
        *lines, rest = rest.split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest.rstrip(b"\r")
