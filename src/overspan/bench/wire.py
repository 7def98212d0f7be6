"""HTTP/1.1 replies and server-sent events, taken in pieces of any size.

Only what a load generator reads: the head of a reply, the framing of its body (chunked, by length, until close) and the
ends of events. Replies are untrusted: whatever is not HTTP or grows without end is `Garbage`.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from overspan.endpoint.replies import error_text

MAX_HEAD_BYTES: Final = 65536
"""A head larger than this is not one. Source: h11's default limit for one is 16 KiB; four times that."""

MAX_EVENT_BYTES: Final = 4 << 20
"""One event, or an error's body, larger than this is given up. Tool calls and logprobs reach some hundred kilobytes."""

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_UNTIL_CLOSE: Final = -1


class Garbage(Exception):
    """The server sent what is not HTTP/1.1, not server-sent events, or not the shape of an OpenAI reply."""


class HttpReply:
    """One HTTP/1.1 reply, fed read by read.

    Attributes:
        status: 0 until the head is whole.
        complete: the body has ended by its framing.
        chunk_start: the next byte is the first of a chunk's size line (chunked bodies only).
    """

    __slots__ = ("_buffer", "_chunked", "_left", "chunk_start", "complete", "content_type", "keep_alive", "status")

    def __init__(self) -> None:
        self.status = 0
        self.content_type = ""
        self.keep_alive = True
        self.complete = False
        self.chunk_start = False
        self._chunked = False
        self._left = 0
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """Take the bytes of one read; return those of the body.

        Raises:
            Garbage: not HTTP/1.1, or bytes after the end.
        """
        if self.complete:
            raise Garbage(f"{len(data)} bytes after the end of the reply")
        self.chunk_start = False
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if not self.status:
            rest = self._head(data)
            if rest is None:
                return b""
            data = rest
        if self._chunked:
            return self._dechunk(data)
        return self._plain(data)

    def end_of_input(self) -> bool:
        """The server closed the connection; return whether the body is whole."""
        if self.status and not self._chunked and self._left == _UNTIL_CLOSE:
            self.complete = True
        return self.complete

    def _plain(self, data: bytes) -> bytes:
        if self._left == _UNTIL_CLOSE:
            return data
        if len(data) > self._left:
            raise Garbage(f"{len(data) - self._left} bytes more than its content-length")
        self._left -= len(data)
        self.complete = self._left == 0
        return data

    def _head(self, data: bytes) -> bytes | None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if not b"HTTP/1.".startswith(data[:7]) and not data.startswith(b"HTTP/1."):
                    raise Garbage(f"not an HTTP reply: {data[:60]!r}")
                if len(data) > MAX_HEAD_BYTES:
                    raise Garbage(f"a head of more than {MAX_HEAD_BYTES} bytes")
                self._buffer = data
                return None
            head, data = data[:end], data[end + 4 :]
            status = _status(head)
            if status >= 200:
                self.status = status
                self._headers(head)
                return data

    def _headers(self, head: bytes) -> None:
        length = None
        self.keep_alive = head.startswith(b"HTTP/1.1")
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip()
            if name == b"transfer-encoding":
                self._chunked = value.lower().endswith(b"chunked")
            elif name == b"content-length":
                length = _number(value, 10, "content-length")
            elif name == b"content-type":
                self.content_type = value.decode("latin-1").lower()
            elif name == b"connection":
                self.keep_alive = value.lower() != b"close" and (self.keep_alive or value.lower() == b"keep-alive")
        if self._chunked:
            return
        if self.status in (204, 304):
            length = 0
        self._left = _UNTIL_CLOSE if length is None else length
        self.keep_alive = self.keep_alive and length is not None
        self.complete = length == 0

    def _dechunk(self, data: bytes) -> bytes:
        """`_left` bytes of the running chunk and its line end (2) are still to come; 0 at a size line."""
        body: list[bytes] = []
        at = 0
        while at < len(data):
            if self._left:
                at = self._inside(data, at, body)
                continue
            end = data.find(b"\r\n", at)
            if end < 0 or end + 2 > len(data):
                if len(data) - at > 1024:
                    raise Garbage(f"not a chunk's size: {data[at : at + 40]!r}")
                self._buffer = data[at:]
                return b"".join(body)
            size = _number(data[at:end].partition(b";")[0].strip(), 16, "chunk size")
            if size == 0:
                self._trailer(data[at:], end + 2 - at)
                return b"".join(body)
            at, self._left = end + 2, size + 2
        self.chunk_start = self._left == 0
        return b"".join(body)

    def _inside(self, data: bytes, at: int, body: list[bytes]) -> int:
        here = min(self._left, len(data) - at)
        payload = min(max(self._left - 2, 0), here)
        if payload:
            body.append(data[at : at + payload])
        line_end = data[at + payload : at + here]
        if line_end and line_end != (b"\r\n"[-self._left :] if self._left < 2 else b"\r\n"[: len(line_end)]):
            raise Garbage(f"a chunk longer than its size: {data[at : at + here][-40:]!r}")
        self._left -= here
        return at + here

    def _trailer(self, data: bytes, after_size: int) -> None:
        if data[after_size : after_size + 2] == b"\r\n":
            end = after_size + 2
        else:
            found = data.find(b"\r\n\r\n", after_size)
            end = found + 4 if found >= 0 else -1
        if end < 0 or len(data) < after_size + 2:
            if len(data) > MAX_HEAD_BYTES:
                raise Garbage("trailers without an end")
            self._buffer = data
            return
        if len(data) > end:
            raise Garbage(f"{len(data) - end} bytes after the end of the reply")
        self.complete = True


def _status(head: bytes) -> int:
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or len(parts[1]) != 3 or not parts[1].isdigit():
        raise Garbage(f"not an HTTP reply: {head[:60]!r}")
    return int(parts[1])


def _number(text: bytes, base: int, what: str) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise Garbage(f"not a {what}: {text[:40]!r}")
    return number


class Events:
    """Splits the body of a stream into events, with carry over split reads."""

    __slots__ = ("carry",)

    def __init__(self) -> None:
        self.carry = b""

    def feed(self, payload: bytes) -> list[bytes]:
        """Whole events of the stream so far, without their ends.

        Raises:
            Garbage: an event without an end.
        """
        parts = _EVENT_END.split(self.carry + payload if self.carry else payload)
        self.carry = parts.pop()
        if len(self.carry) > MAX_EVENT_BYTES:
            raise Garbage(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return parts


class Piece:
    """What one event said.

    Attributes:
        text: content, reasoning, tool-call or completion text in it; empty in a role-only event.
        usage: the server's count of tokens, `{prompt_tokens, completion_tokens, ...}`.
        choices: the event carries a choice (a usage-only event carries none).
    """

    __slots__ = ("choices", "done", "error", "finish", "text", "usage")

    def __init__(self) -> None:
        self.text = ""
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None
        self.error: str | None = None
        self.done = False
        self.choices = False


def parse_event(event: bytes) -> Piece | None:
    """Parse one event in full; None for a comment or an event without data.

    Raises:
        Garbage: its data is neither `[DONE]` nor the JSON of an OpenAI chunk.
    """
    lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
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
    piece.choices = True
    finish = choice.get("finish_reason")
    piece.finish = finish if isinstance(finish, str) else None
    delta = choice.get("delta")
    source = delta if isinstance(delta, dict) else choice
    texts = [source.get(key) for key in ("text", "reasoning", "reasoning_content", "content", "refusal")]
    piece.text = "".join(text for text in texts if isinstance(text, str)) + _tool_text(source.get("tool_calls"))


def _tool_text(calls: object) -> str:
    if not isinstance(calls, list):
        return ""
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    found = [f.get(key) for f in functions if isinstance(f, dict) for key in ("name", "arguments")]
    return "".join(value for value in found if isinstance(value, str))
