"""Lengths that are asked for and do not come are told; a server that fails with ignore_eos is told that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.run import Bench
from overspan.cli.main import main
from overspan.schema.workload import BenchResult, Workload
from support import openai_server as fake
from support.openai_server import HEAD, Behaviour, Send, Server, serving, steady


def measure(server: Server, **changes: Any) -> BenchResult:
    fields = {"concurrency": [2], "requests": 8, "input_tokens": 32, "output_tokens": 12, "timeout_s": 10.0}
    load = Workload.model_validate({**fields, **changes})
    return Bench(server.base_url, None, load, calibrated=False).run()


def gives(tokens: Any, finish: str = "stop", prompt: float = 1.0) -> Behaviour:
    """A server whose answers have `tokens(asked, number)` tokens, and that counts prompts as so many times as long."""

    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        count = max(1, tokens(body["max_tokens"], number))
        texts = [fake.delta(" the")] * (count - 1) + [fake.delta(" end", finish)]
        given = round(fake.prompt_tokens(body) * (prompt if number else 1.0))
        send(HEAD + b"".join(map(fake.chunk, [*texts, fake.usage(given, count), fake.event("[DONE]")])) + fake.END)

    return behave


@pytest.mark.parametrize(
    ("tokens", "mean"),
    [
        (lambda asked, _: asked // 4, 3),
        (lambda asked, _: 64, 64),
        (lambda asked, number: asked * (2 if number % 2 else 0) or 1, 12.5),
    ],
    ids=["a quarter", "more", "too long and too short by turns"],
)
def test_answers_of_another_length_are_told(tokens: Any, mean: float) -> None:
    with serving(gives(tokens)) as server:
        result = measure(server)
    lengths = result.points[0].output_lengths
    assert lengths is not None and lengths.off
    assert (lengths.asked.mean, lengths.got.mean, lengths.requests_off) == (12, mean, 8)
    assert any(f"answers had {mean:g} tokens on average and 12 were asked" in note for note in result.notes)


def test_how_short_answers_ended() -> None:
    with serving(gives(lambda asked, _: asked // 2, finish="stop")) as server:
        assert any("ended with stop (8)" in note for note in measure(server).notes)


def test_prompts_of_another_length_are_told() -> None:
    with serving(gives(lambda asked, _: asked, prompt=1.5)) as server:
        result = measure(server)
    lengths = result.points[0].input_lengths
    assert lengths is not None and lengths.off and lengths.got.mean == 48
    assert any("prompts had 48 tokens on average and 32 were asked" in note for note in result.notes)


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("lengths", [{}, {"input_lengths": "uniform:16-48", "output_lengths": "uniform:6-18"}])
def test_lengths_that_came_as_asked_are_no_note(turns: int, lengths: dict[str, str]) -> None:
    with serving(steady(0.001, 0.0001)) as server:
        result = measure(server, turns=turns, requests=12, **lengths)
    (point,) = result.points
    assert point.input_lengths is not None and point.output_lengths is not None
    assert (point.input_lengths.difference, point.output_lengths.difference) == (0, 0)
    assert point.output_lengths.got == point.output_lengths.asked
    assert not any("were asked" in note for note in result.notes)


def test_a_trace_asks_for_its_lengths(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 40, "output_length": 10}\n' * 8)
    with serving(gives(lambda asked, _: 5)) as server:
        (point,) = measure(server, trace=str(trace)).points
    assert point.input_lengths is not None and point.output_lengths is not None
    assert (point.input_lengths.asked.mean, point.input_lengths.off) == (40, False)
    assert (point.output_lengths.asked.mean, point.output_lengths.got.mean) == (10, 5)


def bench(server: Server, *more: str) -> int:
    small = ("-c", "2", "--requests", "4", "--input-tokens", "20", "--output-tokens", "12", "--no-calibration")
    with pytest.raises(SystemExit) as caught:
        main(["bench", "--base-url", server.base_url, *small, *more])
    return int(str(caught.value.code))


def test_strict_wants_the_lengths_that_were_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(gives(lambda asked, _: asked // 4)) as server:
        assert bench(server) == 0
        assert "were asked" in capsys.readouterr().err
        assert bench(server, "--strict", "--json") == 1
    (point,) = json.loads(capsys.readouterr().out)
    assert (point["output_lengths"]["asked"]["p50"], point["output_lengths"]["got"]["p50"]) == (12, 3)


def test_ignore_eos_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        bench(server, "--no-ignore-eos")
        assert not any("ignore_eos" in request for request in server.requests)
        assert "--no-ignore-eos" in capsys.readouterr().err
        bench(server)
        assert server.requests[-1]["ignore_eos"] is True


def breaks_with_ignore_eos(above: int, failure: bytes) -> Behaviour:
    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        if body.get("ignore_eos") and body["max_tokens"] > above:
            send(failure)
        else:
            fake.answer(body, send, ttft_s=0.001, itl_s=0.0001)

    return behave


ERROR_EVENT = (
    HEAD
    + fake.chunk(fake.delta(" a"))
    + fake.chunk(fake.event({"error": {"message": "unexpected tokens remaining in message header", "code": 500}}))
    + fake.END
)


@pytest.mark.parametrize("failure", [ERROR_EVENT, fake.plain("500 Oops", b'{"error":{"message":"unexpected tokens"}}')])
def test_answers_that_fail_with_ignore_eos_are_told_so(failure: bytes) -> None:
    with serving(breaks_with_ignore_eos(above=40, failure=failure)) as server:
        result = measure(server, output_tokens=64)
        assert result.points[0].requests.ok == 0
        told = [note for note in result.notes if "--no-ignore-eos" in note]
        assert len(told) == 1 and "unexpected tokens" in told[0]
        assert measure(server, output_tokens=64, ignore_eos=False).points[0].requests.ok == 8


@pytest.mark.parametrize("failure", [ERROR_EVENT, fake.plain("500 Oops", b'{"error":{"message":"unexpected tokens"}}')])
def test_a_first_answer_that_fails_with_ignore_eos_is_asked_without(failure: bytes) -> None:
    with serving(breaks_with_ignore_eos(above=0, failure=failure)) as server:
        result = measure(server)
    assert result.points[0].requests.ok == 8
    assert any("fail with ignore_eos" in note and "unexpected tokens" in note for note in result.notes)


def test_failures_of_another_cause_do_not_blame_ignore_eos() -> None:
    def dies(body: dict[str, Any], send: Send, number: int) -> None:
        if number:
            send(ERROR_EVENT)
        else:
            fake.answer(body, send, ttft_s=0.001, itl_s=0.0001)

    with serving(dies) as server:
        assert not any("ignore_eos" in note for note in measure(server).notes)
