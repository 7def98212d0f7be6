"""A reply cut anywhere gives the same request; garbage is called garbage."""

from __future__ import annotations

import gc
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overspan.bench.stream import Stream, plain_tokens
from overspan.bench.wire import Garbage, HttpReply
from support import openai_server as server

TRICKY = [
    ' the "error"',
    ' data: {"usage":{"completion_tokens":99}}\n\n',
    " [DONE]",
    ' "finish_reason":null \\ {}',
    " naïve 日本 \u2028",
    " \r\n\r\n0\r\n\r\n",
]


def reply(texts: list[str], *, spaced: bool = False, ends: bytes = b"\n\n") -> bytes:
    events = [server.role(), *(server.delta(text) for text in texts), server.delta("", "length")]
    events += [b": ping\n\n", server.usage(11, len(texts)), server.event("[DONE]")]
    if spaced:
        events = [event.replace(b'":', b'": ') for event in events]
    return server.HEAD + b"".join(server.chunk(event.replace(b"\n\n", ends)) for event in events) + server.END


def taken(pieces: list[bytes]) -> Stream:
    stream = Stream(0, b"")
    ended = next((at for at, piece in enumerate(pieces, 1) if stream.take(piece, at)), 0)
    assert ended, (stream.error, stream.detail)
    assert stream.done or ended == len(pieces), "an answer ends at [DONE], or with its body"
    return stream


@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\r\n"])
@pytest.mark.parametrize("spaced", [False, True])
def test_split_at_every_byte(ends: bytes, spaced: bool) -> None:
    whole = reply(TRICKY, ends=ends, spaced=spaced)
    for cut in range(1, len(whole)):
        stream = taken([whole[:cut], whole[cut:]])
        assert (stream.error, len(stream.stamps), stream.output_tokens) == (None, len(TRICKY), len(TRICKY)), cut
        assert (stream.input_tokens, stream.finish) == (11, "length")


@given(
    texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=12),
    seed=st.integers(0, 2**20),
    most=st.integers(1, 400),
)
@settings(max_examples=150, deadline=None)
def test_split_anyhow(texts: list[str], seed: int, most: int) -> None:
    whole, pick, pieces, at = reply(texts), random.Random(seed), [], 0
    while at < len(whole):
        step = pick.randint(1, most)
        pieces.append(whole[at : at + step])
        at += step
    stream = taken(pieces)
    assert (stream.error, len(stream.stamps), stream.usage is not None) == (None, len(texts), True)


def test_byte_by_byte() -> None:
    whole = reply(TRICKY)
    stream = taken([bytes([byte]) for byte in whole])
    assert (stream.error, len(stream.stamps)) == (None, len(TRICKY))


def test_stamps_are_those_of_the_reads() -> None:
    events = [server.role(), *[server.delta(" the")] * 3, server.delta(" end", "stop"), server.event("[DONE]")]
    pieces = [server.HEAD, *map(server.chunk, events), server.END]
    stream = taken(pieces)
    assert list(stream.stamps) == [3, 4, 5, 6]
    assert stream.end_ns == len(pieces) - 1, "at [DONE], whatever frames the body"


def test_the_common_read_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    real = Stream._event

    def counting(self: Stream, event: bytes, stamp_ns: int) -> None:
        parsed.append(event)
        real(self, event, stamp_ns)

    monkeypatch.setattr(Stream, "_event", counting)
    events = [server.role(), *[server.delta(" the")] * 100, server.delta(" end", "stop"), server.event("[DONE]")]
    stream = taken([server.HEAD, *map(server.chunk, events), server.END])
    assert len(stream.stamps) == 101
    assert len(parsed) == 4  # role, first token, finish, [DONE]


def test_content_length_and_close_framing() -> None:
    events = server.delta(" a") + server.delta(" b", "stop")
    stream = taken(
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(events), events]
    )
    assert (stream.error, len(stream.stamps), stream.reply.keep_alive) == (None, 2, True)
    stream = Stream(0, b"")
    assert not stream.take(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events, 5)
    stream.closed(6)
    assert (stream.error, len(stream.stamps), stream.reply.keep_alive) == (None, 2, False)


def test_several_events_in_one_chunk() -> None:
    many = server.chunk(server.delta(" a") * 5)
    stream = taken(
        [
            server.HEAD,
            server.chunk(server.delta(" x")),
            many,
            many + server.chunk(server.delta("", "stop")) + server.END,
        ]
    )
    assert len(stream.stamps) == 11


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content", "content"])
def test_first_token_is_content_or_reasoning(key: str) -> None:
    choice = {"index": 0, "delta": {"role": "assistant", key: "Hm"}, "finish_reason": None}
    stream = taken([server.HEAD, server.chunk(server.role()), server.chunk(server.event({"choices": [choice]})),
                    server.chunk(server.delta("", "stop")) + server.END])  # fmt: skip
    assert list(stream.stamps) == [3]


def test_first_token_is_a_tool_call() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "weather", "arguments": ""}}
    stream = taken([server.HEAD, server.chunk(server.role()), server.chunk(server.delta("", tool_calls=[call])),
                    server.chunk(server.delta("", "tool_calls")) + server.END])  # fmt: skip
    assert list(stream.stamps) == [3]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not an HTTP reply"),
        (b"HTTP/1.1 abc\r\n\r\n", "not an HTTP reply"),
        (server.HEAD + b"xyz\r\n", "not HTTP: Invalid character in chunk size"),
        (server.HEAD + b"-5\r\n", "Invalid character in chunk size"),
        (server.HEAD + b"3\r\nabcdef\r\n", "after chunk data"),
        (server.HEAD + server.chunk(b"data: {oops\n\n"), "not JSON"),
        (server.HEAD + server.chunk(b"data: [1,2]\n\n"), "not a JSON object"),
        (server.HEAD + server.chunk(b'data: {"a":1}\n\n'), "without choices"),
        (server.HEAD + server.chunk(b'data: {"choices":["x"]}\n\n'), "not an object"),
        (server.HEAD + server.chunk(b"<html>\n\n"), "not a server-sent event"),
        (server.HEAD + server.chunk(b"data: " + b"[" * 100_000 + b"\n\n"), "not JSON"),
        (server.HEAD + server.chunk(server.event("[DONE]")) + server.END + b"more", "after the end"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "not an HTTP reply"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, "a head or trailers of more"),
        (server.plain("200 OK", b"<html>hello</html>", "text/html"), "did not stream"),
    ],
)  # fmt: skip
def test_garbage(data: bytes, says: str) -> None:
    stream = Stream(0, b"")
    assert stream.take(data, 1)
    assert stream.error == "garbage"
    assert says in (stream.detail or "")


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_come_to_an_end(data: bytes) -> None:
    for prefix in (b"", server.HEAD, server.HEAD + server.chunk(server.delta(" a"))):
        stream = Stream(0, b"")
        stream.take(prefix + data, 1)
        if stream.error is None and not stream.end_ns:
            stream.closed(2)
        assert stream.end_ns in (1, 2)


def test_plain_tokens_needs_evidence() -> None:
    assert plain_tokens(server.delta(" a")) == 1
    assert plain_tokens(server.delta(" a") * 3) == 3
    empty = {"choices": [{"index": 0, "delta": {}, "finish_reason": None}]}
    for other in (server.role(), server.delta(" a", "stop"), server.event("[DONE]"), b": ping\n\n",
                  server.usage(1, 2), server.event(empty), server.event({"error": {"message": "x"}})):  # fmt: skip
        assert plain_tokens(other) == 0
        assert plain_tokens(server.delta(" a") + other) == 0


def test_a_reply_after_100_continue() -> None:
    taken_reply = HttpReply()
    assert taken_reply.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + server.plain("200 OK", b"ab")) == b"ab"
    assert (taken_reply.status, taken_reply.complete) == (200, True)
    with pytest.raises(Garbage):
        taken_reply.feed(b"x")


def test_two_replies_for_one_request_are_garbage() -> None:
    one = server.plain("200 OK", b"ab")
    with pytest.raises(Garbage, match="after the end"):
        HttpReply().feed(one + one)


@pytest.mark.parametrize("line", [b"a: b\r\n", b"x" * 64])
def test_trailers_and_size_lines_end(line: bytes) -> None:
    reply = HttpReply()
    reply.feed(server.HEAD + (b"0\r\n" if line.endswith(b"\n") else b"5;"))
    with pytest.raises(Garbage, match="more than 65536 bytes"):
        for _ in range(20_000):
            reply.feed(line)


def replies_in_memory() -> int:
    return sum(isinstance(each, HttpReply) for each in gc.get_objects())


def test_an_ended_reply_is_no_garbage_for_the_collector() -> None:
    gc.collect()
    before = replies_in_memory()
    gc.disable()
    try:
        ended = [taken([reply([" the"])]) for _ in range(100)]
        for stream in ended:
            stream.forget()
        assert replies_in_memory() == before
    finally:
        gc.enable()


def test_tokens_in_the_first_chunk() -> None:
    def stream_of(sizes: list[int]) -> Stream:
        events = [server.delta(" the" * size) for size in sizes] + [server.delta("", "length")]
        total = server.usage(3, sum(sizes))
        return taken([server.HEAD, *map(server.chunk, events), server.chunk(total) + server.END])

    assert stream_of([32, 32, 32, 32]).first_chunk_tokens == 32
    assert stream_of([1, 31, 32, 32]).first_chunk_tokens == 1
    assert stream_of([1] * 20).first_chunk_tokens == 1
    assert stream_of([5]).first_chunk_tokens == 5
