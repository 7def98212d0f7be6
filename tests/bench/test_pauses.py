"""Times in which the server stood still, and what only looks like it."""

from __future__ import annotations

import json
import lzma
import random
import threading
import time
from array import array
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.audit import Audit
from overspan.bench.levels import Level
from overspan.bench.pauses import EngineLog, find_pauses, is_disturbed, pauses_seen
from overspan.bench.point import make_point
from overspan.bench.run import Bench
from overspan.bench.stream import Stream
from overspan.cli.main import main
from overspan.engines.vllm import Vllm
from overspan.schema.workload import BenchPoint, Pauses, Workload
from overspan.store.run_folder import RunFolder
from support import openai_server as fake
from support.openai_server import serving
from support.runs import a_plan

MS = 1_000_000
START = 10**18
JIT = (
    "(EngineCore pid=71) WARNING 11-30 19:27:42 [jit_monitor.py:103] Triton kernel JIT compilation during inference: "
    "_zero_kv_blocks_kernel. This causes a latency spike; consider extending warmup to cover this shape/config.\n"
)


def stream(send_ms: float, stamps_ms: list[float], *, prompt: int | None = 128) -> Stream:
    made = Stream(0, b"", START + int(send_ms * MS))
    made.send_ns = made.intended_ns
    made.stamps = array("q", [START + int(stamp * MS) for stamp in stamps_ms])
    made.usage = {"completion_tokens": len(stamps_ms), **({} if prompt is None else {"prompt_tokens": prompt})}
    made.end_ns = made.stamps[-1]
    return made


def served(
    users: int,
    *,
    rounds: int = 4,
    step_ms: float = 20.0,
    prefill_ms_per_token: float = 0.2,
    stops: tuple[tuple[float, float], ...] = (),
    prompts: dict[int, int] | None = None,
    slots: int | None = None,
    burst: int = 1,
    blocking: bool = True,
) -> list[Stream]:
    """Requests of a closed loop at a server that works in steps: each gives every running request a token, and starts
    the requests that wait, whose prefill makes that step longer.

    Args:
        stops: when the server stops after a step, and for how long, ms.
        prompts: tokens of the n-th request; 128 else.
        slots: how many run at a time.
        burst: tokens that come together.
        blocking: prefills hold up the others.
    """
    draw, left = random.Random(users), list(stops)
    waiting: list[tuple[float, int]] = [(0.0, number) for number in range(users)]
    running: list[tuple[float, int, int, list[float]]] = []
    done: list[Stream] = []
    now, next_number = 0.0, users
    while waiting or running:
        room = (slots or users) - len(running)
        begun, waiting = waiting[:room], waiting[room:]
        prompt_tokens = sum((prompts or {}).get(number, 128) for _, number in begun)
        now += step_ms * draw.uniform(0.9, 1.1) + (prefill_ms_per_token * prompt_tokens if blocking else 0.0)
        if left and now >= left[0][0]:
            now += left.pop(0)[1]
        running += [(sent, number, draw.randrange(20, 80), []) for sent, number in begun]
        for sent, number, length, stamps in list(running):
            stamps.append(now + draw.uniform(0.0, 1.0))
            if len(stamps) < length:
                continue
            running.remove((sent, number, length, stamps))
            grouped = [stamps[min(index // burst * burst + burst - 1, length - 1)] for index in range(length)]
            done.append(stream(sent, grouped, prompt=(prompts or {}).get(number, 128)))
            if next_number < users * rounds:
                waiting.append((stamps[-1] + 0.1, next_number))
                next_number += 1
    return done


def told(streams: list[Stream]) -> list[tuple[int, int]]:
    return [((one.begin_ns - START) // MS, (one.end_ns - one.begin_ns) // MS) for one in find_pauses(streams)]


@pytest.mark.parametrize("users", [2, 8, 32, 128])
def test_a_server_that_stops_is_seen_as_often_and_as_long_as_it_did(users: int) -> None:
    stops = ((4000.0, 1400.0), (6500.0, 700.0))
    found = told(served(users, rounds=10, stops=stops))
    assert len(found) == 2
    for (_, seen), (_, took) in zip(found, stops, strict=True):
        assert took <= seen <= took + 150


def test_a_stop_in_a_prefill_is_seen_too() -> None:
    # The third request of eight waits for its first token while the server compiles: the usual prefill takes 26 ms.
    running = [stream(0, [30 + 20 * n + (1500 if n >= 40 else 0) for n in range(80)]) for _ in range(7)]
    new = stream(800, [30 + 20 * 40 + 1500 + 20 * n for n in range(30)])
    others = [stream(100 * n, [100 * n + 30, 100 * n + 31]) for n in range(1, 8)]
    assert [took for _, took in told([*running, *others, new])] == [1520]


def test_a_bench_of_a_real_server_that_compiled() -> None:
    # gpt-oss-120b with 32 users on an H200, vLLM 0.26, 2026-11-30; chunks of 8 prefills (0.18 s) are no pauses.
    streams = []
    with lzma.open(Path(__file__).parent / "captured_pauses.jsonl.xz", "rt") as lines:
        for request in map(json.loads, lines):
            stamps = list(accumulate([request["first_token_at_ms"], *request["itl_ms"]]))
            streams.append(stream(request["send_at_ms"], stamps, prompt=request["input_tokens"]))
    assert told(streams) == [(4875, 1399), (8954, 1762), (10798, 1896)]
    point = make_point(Level(users=32), 128, streams, Audit())
    assert point.pauses == Pauses(count=3, seconds=5.058, longest_s=1.896)
    assert point.disturbed and point.steady is not None
    assert point.steady.tpot_ms.mean == pytest.approx(15.9, rel=0.01)  # 20.9 with the pauses


INNOCENT: dict[str, dict[str, Any]] = {
    "healthy": {"users": 8},
    "short": {"users": 2, "rounds": 1},
    "one user": {"users": 1, "rounds": 8},
    "slow steps": {"users": 4, "step_ms": 400.0, "prefill_ms_per_token": 5.0},
    "a queue": {"users": 32, "slots": 4},
    "long prompt": {"users": 8, "prompts": {20: 8000}},
    "long prompts": {"users": 8, "prompts": {12: 8000, 20: 16000, 21: 9000}},
    "long prompt, others go on": {"users": 8, "prompts": {20: 8000}, "blocking": False},
    "bursts": {"users": 8, "burst": 16},
    "all at the end": {"users": 8, "burst": 1000},
    "a stop that nobody sees": {"users": 1, "stops": ((300.0, 3000.0),)},
    "a hiccup": {"users": 8, "stops": ((500.0, 120.0),)},
}


@pytest.mark.parametrize("load", INNOCENT.values(), ids=INNOCENT.keys())
def test_what_is_no_stop_of_the_server(load: dict[str, Any]) -> None:
    assert told(served(**load)) == []


def test_one_user_may_think_while_others_are_answered_or_nobody_is() -> None:
    thinks = stream(0, [30, 50, 70, 4000, 4020])
    assert told([thinks]) == []
    assert told([thinks, stream(0, [30 + 20 * n for n in range(200)])]) == []
    # Between two requests of a user nothing is in flight.
    assert told([stream(5000 * n, [5000 * n + 30 + 20 * k for k in range(20)]) for n in range(4) for _ in "ab"]) == []


def test_a_prefill_in_several_steps_of_the_server() -> None:
    chunks = [1000, 1400, 1800, 2200]  # 8,000 tokens in four steps, each gives the others one token
    steps = [*range(20, 1001, 20), *chunks[1:], *range(2220, 3000, 20)]
    running = [stream(0, list(map(float, steps))) for _ in range(4)]
    others = [stream(100 * n, [100 * n + 26.0, 100 * n + 27.0]) for n in range(1, 9)]
    new = stream(990, [2200.0, 2220.0, 2240.0], prompt=8000)
    assert told([*running, *others, new]) == []
    # How long the prompt was is not known: a prefill is believed.
    assert told([*running, *others, stream(990, [2200.0, 2220.0, 2240.0], prompt=None)]) == []


def test_without_any_chunk_there_is_nothing_to_see() -> None:
    assert find_pauses([]) == []
    silent = stream(0, [1.0])
    silent.stamps = array("q")
    assert find_pauses([silent, stream(0, [5.0])]) == []


def test_the_steady_window_is_as_if_the_server_had_not_stopped() -> None:
    calm, stopped = served(8, rounds=6), served(8, rounds=6, stops=((900.0, 1500.0), (2800.0, 900.0)))
    clean, hurt = (make_point(Level(users=8), 48, streams, Audit()) for streams in (calm, stopped))
    assert clean.pauses == Pauses() and not clean.disturbed
    assert hurt.pauses is not None and hurt.pauses.count == 2 and hurt.disturbed
    assert clean.steady is not None and hurt.steady is not None
    assert hurt.steady.tpot_ms.mean == pytest.approx(clean.steady.tpot_ms.mean, rel=0.02)
    assert hurt.steady.output_tokens_per_s == pytest.approx(clean.steady.output_tokens_per_s, rel=0.03)
    assert hurt.tpot_ms.mean is not None and clean.tpot_ms.mean is not None
    assert hurt.tpot_ms.mean > 1.2 * clean.tpot_ms.mean


def test_a_short_pause_of_a_long_point_is_counted_and_does_not_spoil_it() -> None:
    seen = Pauses(count=1, seconds=0.3, longest_s=0.3)
    assert not is_disturbed(seen, 60.0) and is_disturbed(seen, 10.0)
    assert is_disturbed(pauses_seen([], logged=1), 60.0)


def test_a_point_of_before_says_nothing_of_pauses() -> None:
    point = make_point(Level(users=1), 1, [stream(0, [1.0, 2.0])], Audit())
    assert json.loads(point.model_dump_json())["pauses"] == {"count": 0, "seconds": 0.0, "longest_s": 0.0, "logged": 0}
    document = json.loads(point.model_dump_json())
    del document["pauses"], document["disturbed"]
    again = BenchPoint.model_validate(document)
    assert again.pauses is None and json.loads(again.model_dump_json()) == document


class Stopping:
    """Two or more answers at once, all held up once for 0.8 s in their middle."""

    def __init__(self, log: Path | None = None) -> None:
        self.until = 0.0
        self.stopped = threading.Event()
        self.log = log

    def __call__(self, body: dict[str, Any], send: fake.Send, number: int) -> None:
        tokens = body["max_tokens"]
        send(fake.HEAD)
        for index in range(tokens):
            if index == tokens // 2 and tokens > 10 and not self.stopped.is_set():
                self.stopped.set()
                self.until = time.monotonic() + 0.8
                if self.log is not None:
                    with self.log.open("a") as file:
                        file.write(JIT)
            time.sleep(max(0.01, self.until - time.monotonic()))
            send(fake.chunk(fake.delta(" the", "length" if index == tokens - 1 else None)))
        send(fake.chunk(fake.usage(fake.prompt_tokens(body), tokens)) + fake.chunk(fake.event("[DONE]")) + fake.END)


def test_the_client_sees_a_server_that_stops() -> None:
    load = Workload(concurrency=[4], requests=12, input_tokens=16, output_tokens=30)
    with serving(Stopping()) as server:
        result = Bench(server.base_url, None, load, calibrated=False).run()
    (point,) = result.points
    assert point.pauses is not None and point.pauses.count >= 1 and point.pauses.longest_s >= 0.7 and point.disturbed
    assert any("the server stood still" in note for note in result.notes)


def test_a_warm_up_goes_on_until_the_server_no_longer_stops() -> None:
    load = Workload(concurrency=[4], requests=4, input_tokens=16, output_tokens=30, warmup=4)
    with serving(Stopping()) as server:
        result = Bench(server.base_url, None, load, calibrated=False).run()
        sent = sum(body["max_tokens"] == 30 for body in server.requests)
    assert sent >= 12  # two warm-ups: the server stopped in the first
    assert result.points[0].requests.planned == 4


def test_a_warm_up_has_an_end(tmp_path: Path) -> None:
    def always(body: dict[str, Any], send: fake.Send, number: int) -> None:
        with (tmp_path / "api.log").open("a") as file:
            file.write(JIT)
        fake.steady()(body, send, number)

    load = Workload(concurrency=[1], requests=2, input_tokens=16, output_tokens=3, warmup=2)
    with serving(always) as server:
        log = EngineLog(tmp_path, Vllm.pause_line)
        result = Bench(server.base_url, None, load, calibrated=False, engine_log=log).run()
        sent = sum(body["max_tokens"] == 3 for body in server.requests)
    assert sent == 12
    assert any("still paused in the last of 5 warm-ups" in note for note in result.notes)
    assert result.points[0].disturbed


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    folder = RunFolder.create("tiny")
    with serving(Stopping(folder.log("api"))) as server:
        folder.log("api").write_text(JIT)  # of before: not counted
        folder.write("plan.json", a_plan(server.port, served_model_name="mock"))
        folder.append("ready", state="ready")
        yield folder


def test_what_the_engine_logs_is_counted_and_strict_minds(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    load = ("-c", "1", "-n", "3", "--input-tokens", "16", "--output-tokens", "20", "--no-calibration", "--strict")
    with pytest.raises(SystemExit) as ended:
        main(["bench", run.id, *load])
    assert ended.value.code == 1
    assert "the engine's log told 1 time of" in capsys.readouterr().err
    result = run.bench()
    assert result is not None and result.points[0].pauses is not None
    assert (result.points[0].pauses.logged, result.points[0].pauses.count) == (1, 0)
    assert result.points[0].disturbed


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        (JIT, 1),
        ("WARNING [jit_monitor.py:140] TileLang JIT compilation during inference: mhc_pre_big_fuse. This causes", 1),
        ("INFO Kernel JIT monitor activated; monitored JIT compilations during inference will use mode=warn.", 0),
        ("INFO torch.compile takes 31.2 s in total", 0),
    ],
)
def test_lines_of_vllm(tmp_path: Path, line: str, counts: int) -> None:
    log = EngineLog(tmp_path, Vllm.pause_line)
    (tmp_path / "api.log").write_text(JIT)
    log.begin()
    with (tmp_path / "api.log").open("a") as file:
        file.write(line)
    (tmp_path / "worker.log").write_text("started\n")
    assert log.count() == counts
    silent = EngineLog(tmp_path, None)
    silent.begin()
    assert silent.count() == 0
