"""One request and its streamed reply: what was sent when, what came when, and how it ended."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import Any, Final

from overspan.bench.wire import MAX_EVENT_BYTES, Events, Garbage, HttpReply, parse_event
from overspan.endpoint.replies import error_text

_EVENTS_TO_LEARN: Final = 4
"""Token events parsed in full before the form of those to come is taken as known: the first may carry a role."""

_MOST_TOKENS: Final = 2**31
"""Of one request: more than any context holds."""
_QUOTED: Final = 40

_PLAIN: Final = b'finish_reason":null'
_PLAIN_SPACED: Final = b'finish_reason": null'


def plain_tokens(data: bytes) -> int:
    """How many events of running tokens these bytes hold, by positive evidence; 0 when any of it needs a full parse.

    Between the ends of a stream every event has a null finish reason and some text. JSON escapes line ends and quotes
    inside text, so none of these marks can stand in what the model wrote.
    """
    events = data.count(b"\n\n")
    if data.count(_PLAIN) != events and data.count(_PLAIN_SPACED) != events:
        return 0
    if b'"error"' in data or b'"usage":{' in data or b'"usage": {' in data or b"\r" in data:
        return 0
    if b':""' in data or b': ""' in data or b"{}" in data:
        return 0
    return events


def _size_line(whole: int) -> bytes:
    """The size line of an HTTP chunk that is so many bytes in all, its line ends too; empty where there is none."""
    for digits in range(1, 5):
        line = b"%x\r\n" % max(whole - digits - 4, 0)
        if len(line) == digits + 2:
            return line
    return b""


READ_BYTES: Final = 4096
"""One read; a token event is about 300 bytes. Larger buffers cost time to allocate and are rarely filled."""

_SIZE_LINES: Final = [_size_line(whole) for whole in range(READ_BYTES)]

_NO_EVENTS: Final = Events()
_NO_REPLY: Final = HttpReply()
_NO_REPLY.forget()


class Message(bytes):
    """The bytes of a request, with the lengths that it asks for. None: it asks for no certain length."""

    input_tokens: int | None = None
    output_tokens: int | None = None

    @classmethod
    def of(cls, data: bytes, input_tokens: int | None, output_tokens: int | None) -> Message:
        """These bytes, which ask for these lengths."""
        message = cls(data)
        message.input_tokens, message.output_tokens = input_tokens, output_tokens
        return message


@dataclass(slots=True, eq=False, repr=False)
class Stream:
    """One request. Times are nanoseconds of the system clock, which the kernel's receive stamps use too.

    Attributes:
        intended_ns: when the load asked for it; equal to `send_ns` in a closed loop.
        user: which of the concurrent users sent it.
        wanted_input: tokens of prompt that it asks for, None where none are certain; `wanted_output` of answer.
        send_ns: just before the first byte was handed to the kernel; 0 when it was never sent.
        unparsed: reads with their stamps that wait for a quiet moment of the loop.
        stamps: one a chunk that carries tokens.
        hidden: tokens that the server counted and showed before the first text or after the last: nothing of them.
        unsure: tokens that were hidden, or came several in a chunk: it cannot be told. See `unseen.settle`.
        error: the kind of failure, None when it ended well; `detail` quotes the server.
    """

    index: int
    request: bytes
    intended_ns: int = 0
    user: int = 0
    send_ns: int = 0
    end_ns: int = 0
    retried: bool = False
    error: str | None = None
    detail: str | None = None
    reply: HttpReply = field(default_factory=HttpReply)
    unparsed: list[tuple[bytes, int]] = field(default_factory=list)
    stamps: array[int] = field(default_factory=lambda: array("q"))
    usage: dict[str, Any] | None = None
    first_usage: int | None = None
    finish: str | None = None
    done: bool = False
    first_text: int = 0
    chunks_text: int = 0
    wrapping: int = 0
    plain_bytes: int = 0
    plain_chunks: int = 0
    _events: Events = field(default_factory=Events)
    _body: bytes = b""
    _prefix: bytes = b""
    _suffix: bytes = b""
    _known: bool = False
    _to_learn: int = _EVENTS_TO_LEARN
    _shown_at_empty: int = -1
    wanted_input: int | None = None
    wanted_output: int | None = None
    last_usage: int | None = None
    words: int = 0
    parsed: int = 0
    empties: int = 0
    empty_before: int = 0
    empty_after: int = 0
    reasoned: bool = False
    hidden: int = 0
    unsure: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.request, Message):
            self.wanted_input, self.wanted_output = self.request.input_tokens, self.request.output_tokens

    def restart(self) -> None:
        """Get ready for a second try on a fresh connection, after one of which no head came."""
        self.reply.forget()
        self.reply, self.retried, self.send_ns = HttpReply(), True, 0

    def take(self, data: bytes, stamp_ns: int) -> bool:
        """Take one read; return whether the request has ended (well, or with `error` set)."""
        return not self.quick(data, stamp_ns) and self.parse(data, stamp_ns)

    def quick(self, data: bytes, stamp_ns: int) -> bool:
        """Take the common read, else nothing and return False.

        It is told by three comparisons: one HTTP chunk that holds one event, equal to the last parsed one but for its
        text (no quote in it: then it can only be text).
        """
        size = len(data)
        if self._known and size < READ_BYTES:
            line = _SIZE_LINES[size]
            begin, end = len(line), size - len(self._suffix)
            text = begin + len(self._prefix)
            if (
                text < end
                and data.startswith(line)
                and data.startswith(self._prefix, begin)
                and data.endswith(self._suffix)
                and data.find(b'"', text, end) < 0
            ):
                self.plain_bytes += size - begin - 2
                self.plain_chunks += 1
                self.stamps.append(stamp_ns)
                return True
        return False

    def parse(self, data: bytes, stamp_ns: int) -> bool:
        """Take one read in full; return whether the request has ended."""
        try:
            self._take(data, stamp_ns)
        except Garbage as garbage:
            return self.fail("garbage", str(garbage), stamp_ns)
        self._known = bool(self._suffix) and self.reply.chunk_start and not self._events.carry
        if self.error is not None:
            return True
        return self._finish(stamp_ns) if self.done or self.reply.complete else False

    def _learn(self, event: bytes, text: str) -> None:
        """Keep what stands around the text of an event, when it can be told beyond doubt."""
        self._to_learn -= 1
        for quoted in (json.dumps(text), json.dumps(text, ensure_ascii=False)):
            before, found, after = event.partition(quoted.encode("utf-8", "surrogatepass"))
            if found and quoted.encode("utf-8", "surrogatepass") not in after:
                self._prefix, self._suffix = before + b'"', b'"' + after + b"\n\n\r\n"
                return

    def _plain(self, events: int, size: int, stamp_ns: int) -> None:
        self.plain_bytes += size
        self.plain_chunks += events
        append = self.stamps.append
        append(stamp_ns)
        for _ in range(events - 1):
            append(stamp_ns)

    def _take(self, data: bytes, stamp_ns: int) -> None:
        payload = self.reply.feed(data)
        if not self.reply.status:
            return
        if self.reply.status != 200 or not self.reply.content_type.startswith("text/event-stream"):
            self._body += payload
            if len(self._body) > MAX_EVENT_BYTES:
                raise Garbage(f"a body of more than {MAX_EVENT_BYTES} bytes that is no stream of events")
            return
        for event in self._events.feed(payload):
            if self._to_learn <= 0 and plain_tokens(event + b"\n\n") == 1:
                self._plain(1, len(event) + 2, stamp_ns)
            else:
                self._event(event, stamp_ns)
            if self.error is not None or self.done:
                return

    def _event(self, event: bytes, stamp_ns: int) -> None:
        piece = parse_event(event)
        if piece is None:
            return
        if piece.error is not None:
            self.fail("error_event", piece.error, stamp_ns)
            return
        self.done = self.done or piece.done
        self.finish = piece.finish or self.finish
        before, counted = completion_tokens(self.usage), completion_tokens(piece.usage)
        if piece.usage is not None:
            self.usage = piece.usage
        if piece.empty:
            self.empties += 1
            self.empty_before += not self.stamps
            self.empty_after = self.empties if self._shown_at_empty != len(self.stamps) else self.empty_after
            self._shown_at_empty = len(self.stamps)
        if piece.text:
            self.reasoned = self.reasoned or piece.reasoning
            self.last_usage, self.parsed, self.words = counted, self.parsed + 1, self.words + len(piece.text.split())
            size = len(json.dumps(piece.text)) - 2
            around = max(len(event) + 2 - size, 0)
            if not self.stamps:
                self.first_text, self.wrapping = size, around
                self.first_usage = before + 1 if counted is None and before else counted
            self.wrapping = min(self.wrapping, around)  # the first may carry a role, the last a reason
            self.chunks_text += size
            self.stamps.append(stamp_ns)
            if piece.finish is None and piece.usage is None and self._to_learn > 0:
                self._learn(event, piece.text)

    def _finish(self, stamp_ns: int) -> bool:
        reply = self.reply
        if reply.status != 200:
            return self.fail(f"http_{reply.status}", reply.location or self._quoted_body(), stamp_ns)
        if not reply.content_type.startswith("text/event-stream"):
            what = f"the server did not stream: content-type '{reply.content_type}': {self._quoted_body(120)}"
            return self.fail("garbage", what, stamp_ns)
        if not self.done and self.finish is None:
            return self.fail("broken_stream", "the stream ended without [DONE] or a finish reason", stamp_ns)
        if not self.stamps and not completion_tokens(self.usage):
            return self.fail("no_tokens", "the stream ended well, without a token", stamp_ns)
        self.end_ns = stamp_ns
        return True

    def _quoted_body(self, limit: int = 300) -> str:
        try:
            return error_text(json.loads(self._body), limit)
        except (ValueError, RecursionError):
            return self._body[:limit].decode("utf-8", "replace").strip()

    def closed(self, stamp_ns: int, why: str = "the server closed the connection") -> None:
        """The connection ended; decide what that makes of the request."""
        if self.reply.end_of_input():
            self._finish(stamp_ns)
        elif self.reply.status not in (0, 200):
            self.fail(f"http_{self.reply.status}", self._quoted_body(), stamp_ns)
        else:
            self.fail("broken_stream", f"{why} after {len(self.stamps)} chunks", stamp_ns)

    def fail(self, kind: str, detail: str, stamp_ns: int) -> bool:
        """End the request as failed; always True, for `return`."""
        # Half of a surrogate pair, which JSON can carry, can be written nowhere.
        self.error, self.detail, self.end_ns = kind, detail.encode("utf-8", "replace").decode(), stamp_ns
        return True

    def hand_over(self) -> HttpReply | None:
        """The reply, where the answer has ended and the body has not: whoever takes it reads the connection free."""
        reply = self.reply
        if self.error is not None or reply.complete or not reply.keep_alive:
            return None
        self.reply = _NO_REPLY
        return reply

    def forget(self) -> None:
        """Let go of what was needed on the way; thousands of ended requests are kept."""
        self.request = self._body = self._prefix = self._suffix = b""
        self.reply.forget()
        self.reply, self._events = _NO_REPLY, _NO_EVENTS

    @property
    def output_tokens(self) -> int:
        """The server's count; chunks with text where it gives none."""
        counted = completion_tokens(self.usage)
        return len(self.stamps) if counted is None else counted

    @property
    def input_tokens(self) -> int | None:
        """The server's count of the prompt."""
        return _count(self.usage, "prompt_tokens")

    @property
    def text_bytes(self) -> int:
        """Bytes of text that came, as JSON writes them: chunks in between are not parsed, so that what stands around
        their text counts as in the shortest of the parsed ones."""
        return self.chunks_text + max(self.plain_bytes - self.plain_chunks * self.wrapping, 0)

    @property
    def miscounted(self) -> str | None:
        """Why the server's count cannot be of what came: a chunk with text is one token at least, and a token one byte
        of text at least (special ones, which are left out of a text, are none). None where it can."""
        counted, chunks, size = completion_tokens(self.usage), len(self.stamps), self.text_bytes
        said = (self.usage or {}).get("completion_tokens")
        if counted is None and said is not None:
            return f"completion_tokens is {str(said)[:_QUOTED]}, which is no count"
        if counted is None or chunks <= counted <= size + self.hidden:
            return None
        return f"{counted} tokens counted, {chunks} chunks with {size} bytes of text came"

    @property
    def not_shown(self) -> int:
        """Tokens that the server says it did not show, or for which it sent events without text, beside those between
        two texts: their time is between stamps."""
        missing = max(self.output_tokens - len(self.stamps), 0)
        details = (self.usage or {}).get("completion_tokens_details")
        said = _count(details, "reasoning_tokens") if isinstance(details, dict) and not self.reasoned else None
        after = 0 if self._shown_at_empty != len(self.stamps) else self.empties - self.empty_after + 1
        return min(max(said or 0, self.empty_before + (after if self.stamps else 0)), missing)

    @property
    def rest_tokens(self) -> int:
        """Tokens that came behind the first chunk and up to the last, without those that were hidden around them."""
        chunks = len(self.stamps)
        if self.first_usage is not None and self.last_usage is not None and not self.plain_chunks:
            return self.last_usage - self.first_usage
        around = self.hidden + self.unsure
        if self.first_usage is not None or not (around or self.empties):
            return self.output_tokens - self.first_chunk_tokens
        rest = self.output_tokens - around
        texts = rest - (self.empties - min(self.empties, self.hidden))
        share = round(texts * self.first_text / self.text_bytes) if self.text_bytes and texts > chunks else 1
        return max(rest - max(share, 1), chunks - 1)

    @property
    def first_chunk_tokens(self) -> int:
        """Tokens in the first chunk: one where tokens and chunks are as many, the server's word where it gives it,
        else by the share of the text that came first."""
        tokens, chunks = self.output_tokens, len(self.stamps)
        if chunks <= 1:
            return tokens
        if self.first_usage is not None:
            return min(max(self.first_usage, 1), tokens)
        if tokens <= chunks:
            return 1
        share = round(tokens * self.first_text / self.text_bytes) if self.text_bytes else 1
        return min(max(share, 1), tokens - chunks + 1)


def completion_tokens(usage: dict[str, Any] | None) -> int | None:
    """`completion_tokens` of a usage, where it is there and can be a count."""
    return _count(usage, "completion_tokens")


def _count(usage: dict[str, Any] | None, name: str) -> int | None:
    counted = (usage or {}).get(name)
    return counted if type(counted) is int and 0 <= counted <= _MOST_TOKENS else None
