"""Tokens that a server counts and never shows do not halve the time per token."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from overspan.bench.run import Bench
from overspan.schema.workload import BenchResult, Workload
from support import openai_server as fake
from support.openai_server import HEAD, Send, Server, serving

STEP_S = 0.01


def measure(server: Server, **changes: Any) -> BenchResult:
    fields = {"concurrency": [2], "requests": 6, "input_tokens": 24, "output_tokens": 32, "timeout_s": 20.0}
    load = Workload.model_validate({**fields, **changes})
    return Bench(server.base_url, None, load, calibrated=False).run()


def event_of(delta: dict[str, Any], counted: int | None = None) -> bytes:
    document: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    if counted is not None:
        document["usage"] = {"prompt_tokens": 24, "completion_tokens": counted}
    return fake.chunk(fake.event(document))


def hides(where: str, *, empties: bool = False, growing: bool = False, details: bool = False) -> fake.Behaviour:
    """Half of the tokens are not shown: those `before`, `after` or `between` the others."""

    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        tokens = body["max_tokens"]
        half = tokens // 2
        hidden = {"before": range(half), "after": range(half, tokens), "between": range(half // 2, half + half // 2)}
        send(HEAD + fake.chunk(fake.role()))
        for token in range(tokens):
            time.sleep(STEP_S)
            counted = token + 1 if growing else None
            if token not in hidden[where]:
                send(event_of({"content": " the"}, counted))
            elif empties:
                send(event_of({"content": ""}, counted))
        usage: dict[str, Any] = {"prompt_tokens": 24, "completion_tokens": tokens}
        if details:
            usage["completion_tokens_details"] = {"reasoning_tokens": half}
        last = fake.chunk(fake.delta("", "length")) + fake.chunk(fake.event({"choices": [], "usage": usage}))
        send(last + fake.chunk(fake.event("[DONE]")) + fake.END)

    return behave


@pytest.mark.parametrize("how", [{"empties": True}, {"empties": True, "growing": True}, {"details": True}, {}])
@pytest.mark.parametrize("where", ["before", "after"])
def test_hidden_tokens_are_not_in_tpot(where: str, how: dict[str, bool]) -> None:
    with serving(hides(where, **how)) as server:
        result = measure(server)
    (point,) = result.points
    # A busy machine makes the server late, never early: half the truth would be 5 ms.
    assert (point.tpot_ms.mean or 0) == pytest.approx(point.chunk_gap_ms.mean or 0, rel=0.01)
    assert (point.tpot_ms.mean or 0) >= 10
    assert point.unseen_tokens == 6 * 16 or how.get("growing")
    assert (point.tpot_range_ms is not None) == (not how)
    assert any("not seen to come" in note or "not shown" in note for note in result.notes) or how.get("growing")
    assert point.miscounted == 0 or not how


def test_what_cannot_be_told_is_a_range() -> None:
    with serving(hides("before")) as server:
        result = measure(server)
    (point,) = result.points
    assert point.tpot_range_ms is not None
    low, high = point.tpot_range_ms
    assert high == pytest.approx(point.tpot_ms.mean or 0, rel=0.01)
    assert low == pytest.approx(high * 15 / 31, rel=0.01)
    assert any(f"{high:.10g} ms if they were hidden" in note for note in result.notes)


@pytest.mark.parametrize("empties", [True, False])
def test_tokens_hidden_between_texts_took_their_time(empties: bool) -> None:
    with serving(hides("between", empties=empties)) as server:
        (point,) = measure(server).points
    gaps = 15 * (point.chunk_gap_ms.mean or 0)
    assert (point.tpot_ms.mean or 0) == pytest.approx(gaps / 31, rel=0.01 if empties else 0.05)
    assert point.tpot_range_ms is None


def test_reasoning_that_is_shown_is_not_hidden() -> None:
    def reasons(body: dict[str, Any], send: Send, number: int) -> None:
        send(HEAD + fake.chunk(fake.role()))
        for token in range(32):
            time.sleep(STEP_S / 5)
            send(event_of({"reasoning_content" if token < 16 else "content": " the"}))
        usage = {
            "prompt_tokens": 24,
            "completion_tokens": 32,
            "completion_tokens_details": {"reasoning_tokens": 16},
        }
        last = fake.chunk(fake.delta("", "length")) + fake.chunk(fake.event({"choices": [], "usage": usage}))
        send(last + fake.chunk(fake.event("[DONE]")) + fake.END)

    with serving(reasons) as server:
        (point,) = measure(server).points
    assert point.unseen_tokens == 0
    assert point.tpot_ms.mean == pytest.approx(point.chunk_gap_ms.mean or 0, rel=0.01)


@pytest.mark.parametrize("ttft_s", [0.001, 0.5])
def test_several_tokens_a_chunk_are_not_taken_for_hidden(ttft_s: float) -> None:
    with serving(fake.steady(ttft_s=ttft_s, itl_s=0.002, per_chunk=4)) as server:
        (point,) = measure(server).points
    assert (point.unseen_tokens, point.tpot_range_ms) == (0, None)
    assert point.tpot_ms.mean == pytest.approx((point.chunk_gap_ms.mean or 0) / 4, rel=0.01)


def test_an_answer_in_one_piece_has_no_tpot_and_says_so() -> None:
    def whole(body: dict[str, Any], send: Send, number: int) -> None:
        text = fake.delta(" the" * body["max_tokens"], "length")
        end = fake.chunk(fake.usage(24, body["max_tokens"])) + fake.chunk(fake.event("[DONE]")) + fake.END
        send(HEAD + fake.chunk(text) + end)

    with serving(whole) as server:
        result = measure(server)
    assert result.points[0].tpot_ms.mean is None
    assert any("in one piece" in note for note in result.notes)


class Speculating(fake.Server):
    """Its metrics tell of drafts that it took, more each time that it is asked."""

    asked = 0

    def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
        if not head.startswith("GET /metrics"):
            super()._reply(head, body, connection)
            return
        self.asked += 1
        page = f"vllm:spec_decode_num_accepted_tokens_total {self.asked * 1000}.0\n"
        connection.sendall(fake.plain("200 OK", page.encode(), "text/plain"))


def test_speculation_explains_tokens_beyond_chunks() -> None:
    """Where the engine's own metrics tell of as many accepted drafts, TPOT is known and there is no range."""
    server = Speculating(hides("before"), fake.models("mock"))
    try:
        (point,) = measure(server).points
    finally:
        server.close()
    assert float(str(point.server["accepted_tokens"])) >= 1000
    assert (point.unseen_tokens, point.tpot_range_ms) == (0, None)
