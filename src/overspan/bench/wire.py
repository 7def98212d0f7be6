"""HTTP/1.1 replies and server-sent events, taken in pieces of any size.

Only what a load generator reads: the head of a reply, the framing of its body (chunked, by length, until close) and the
ends of events. Replies are untrusted: whatever is not HTTP or grows without end is `Garbage`.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import Any, Final

import httptools

from overspan.endpoint.replies import error_text, is_of_others

MAX_HEAD_BYTES: Final = 65536
"""A head larger than this is not one. Source: h11's default limit for one is 16 KiB; four times that."""

MAX_EVENT_BYTES: Final = 4 << 20
"""One event, or an error's body, larger than this is given up. Tool calls and logprobs reach some hundred kilobytes."""

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Garbage(Exception):
    """The server sent what is not HTTP/1.1, not server-sent events, or not the shape of an OpenAI reply."""


class HttpReply:
    """One HTTP/1.1 reply, fed read by read. Its parser calls the `on_` methods.

    Attributes:
        status: 0 until the head is whole.
        complete: the body has ended by its framing.
        keep_alive: the connection can be used again once it has.
        chunk_start: the next byte is the first of a chunk's size line (chunked bodies only).
    """

    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self.encoding = self.location = ""
        self.keep_alive = True
        self.complete = False
        self.chunk_start = False
        self._body: list[bytes] = []
        self._framed = False  # else the body ends with the connection
        self._more = False
        self._without_body = 0
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    def forget(self) -> None:
        """Let go of the parser, which holds this reply in turn: a load runs without garbage collection."""
        self._parser = None

    def on_message_begin(self) -> None:
        """A reply begins: the only one, unless an interim one (1xx) stood before it."""
        self._more = self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, as it was written."""
        name = name.lower()
        self._framed = self._framed or name in (b"content-length", b"transfer-encoding")
        if name == b"content-type":
            self.content_type = value.decode("latin-1").lower()
        elif name == b"content-encoding":
            self.encoding = value.decode("latin-1").strip().lower().removeprefix("identity")
        elif name == b"location":
            self.location = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code() if self._parser else 0
        self.status = status if status >= 200 else 0
        self._framed = self._framed or status in (204, 304)
        self.keep_alive = self._parser is not None and self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Bytes of the body."""
        self._body.append(body)

    def on_chunk_header(self) -> None:
        """The size line of a chunk was read."""
        self.chunk_start = False

    def on_chunk_complete(self) -> None:
        """A chunk ended."""
        self.chunk_start = True

    def on_message_complete(self) -> None:
        """The reply ended, if it was no interim one."""
        self.complete = self.status > 0
        self.keep_alive = self._parser is not None and self._parser.should_keep_alive()

    def feed(self, data: bytes) -> bytes:
        """Take the bytes of one read; return those of the body.

        Raises:
            Garbage: not HTTP/1.1, or bytes after the end.
        """
        try:
            if self._parser is None or self.complete:
                raise httptools.HttpParserError
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.complete:
                raise Garbage(f"bytes after the end of the reply: {data[-60:]!r}") from None
            what = f"not HTTP: {error}" if self.status else "not an HTTP reply"
            raise Garbage(f"{what}: {data[:60]!r}") from None
        if self.encoding and self.status == 200:
            raise Garbage(f"the answer is compressed (content-encoding: {self.encoding[:20]}), which was not asked for")
        if self._more:
            raise Garbage(f"bytes after the end of the reply: {data[-60:]!r}")
        self.chunk_start = self.chunk_start and data.endswith(b"\r\n")
        if len(self._body) == 1:
            self._without_body = 0
            return self._body.pop()
        body = b"".join(self._body)
        self._body.clear()
        self._without_body = 0 if body else self._without_body + len(data)
        if self._without_body > MAX_HEAD_BYTES and not self.complete:
            raise Garbage(f"a head or trailers of more than {MAX_HEAD_BYTES} bytes")
        return body

    def end_of_input(self) -> bool:
        """The server closed the connection; return whether the body is whole."""
        if self.status and not self._framed:
            self.complete, self.keep_alive = True, False
        return self.complete


class Events:
    """Splits the body of a stream into events, with carry over split reads."""

    def __init__(self) -> None:
        self.carry = b""
        self._begun = False

    def feed(self, payload: bytes) -> list[bytes]:
        """Whole events of the stream so far, without their ends.

        Raises:
            Garbage: an event without an end.
        """
        whole = self.carry + payload if self.carry else payload
        if not self._begun and len(whole) >= len(BOM_UTF8):
            self._begun, whole = True, whole.removeprefix(BOM_UTF8)  # a stream may begin with one
        parts = _EVENT_END.split(whole)
        self.carry = parts.pop()
        if len(self.carry) > MAX_EVENT_BYTES:
            raise Garbage(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return parts


@dataclass(slots=True)
class Piece:
    """What one event said.

    Attributes:
        text: content, reasoning, tool-call or completion text in it; empty in a role-only event.
        usage: the server's count of tokens, `{prompt_tokens, completion_tokens, ...}`.
        empty: a step of the answer that shows nothing: no text, no role, no end.
        reasoning: some of the text is reasoning.
    """

    text: str = ""
    usage: dict[str, Any] | None = None
    finish: str | None = None
    error: str | None = None
    done: bool = False
    empty: bool = False
    reasoning: bool = False


def parse_event(event: bytes) -> Piece | None:
    """Parse one event in full; None for a comment or an event without data.

    Raises:
        Garbage: its data is neither `[DONE]` nor the JSON of an OpenAI chunk.
    """
    rows = event.splitlines()
    lines = [line[5:].removeprefix(b" ") for line in rows if line.startswith(b"data:")]
    if not lines:
        if event.strip() and not event.lstrip().startswith((b":", b"event:", b"id:", b"retry:")):
            raise Garbage(f"not a server-sent event: {event[:60]!r}")
        return None
    data = b"\n".join(lines)
    piece = Piece()
    if data.strip() == b"[DONE]":
        piece.done = True
        return piece
    document = _json_object(data)
    if document.get("error") is not None or document.get("object") == "error":
        piece.error = error_text(document)
        return piece
    name = next((line[6:].strip() for line in rows if line.startswith(b"event:")), b"")
    if is_of_others(name, document):
        return None
    _choices(document, piece)
    return piece


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise Garbage(f"not JSON in an event: {data[:60]!r}") from None
    if not isinstance(document, dict):
        raise Garbage(f"not a JSON object in an event: {data[:60]!r}")
    return document


def _choices(document: dict[str, Any], piece: Piece) -> None:
    usage = document.get("usage")
    piece.usage = usage if isinstance(usage, dict) else None
    choices = document.get("choices")
    if choices is None and piece.usage is None:
        raise Garbage(f"an event without choices: {str(document)[:60]!r}")
    if not isinstance(choices, list) or not choices:
        return
    choice = choices[0]
    if not isinstance(choice, dict):
        raise Garbage(f"a choice that is not an object: {str(choice)[:60]!r}")
    finish = choice.get("finish_reason")
    piece.finish = finish if isinstance(finish, str) else None
    delta = choice.get("delta")
    source = delta if isinstance(delta, dict) else choice
    piece.reasoning = bool(source.get("reasoning") or source.get("reasoning_content"))
    texts = [source.get(key) for key in ("text", "reasoning", "reasoning_content", "content", "refusal")]
    piece.text = "".join(text for text in texts if isinstance(text, str)) + _tool_text(source.get("tool_calls"))
    piece.empty = not piece.text and finish is None and not source.get("role") and not source.get("tool_calls")


def _tool_text(calls: object) -> str:
    if not isinstance(calls, list):
        return ""
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    found = [f.get(key) for f in functions if isinstance(f, dict) for key in ("name", "arguments")]
    return "".join(value for value in found if isinstance(value, str))
