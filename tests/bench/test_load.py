"""Arrivals, lengths, conversations and traces: what is asked, and when."""

from __future__ import annotations

import json
import random
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from overspan.bench import run
from overspan.bench.audit import Audit
from overspan.bench.job import LoadJob
from overspan.bench.lengths import parse_lengths
from overspan.bench.levels import Search, check_workload
from overspan.bench.load import Arrival, ClosedLoop, OpenLoop, arrivals, connections_for
from overspan.bench.loop import LoadProgress
from overspan.bench.run import Bench
from overspan.bench.shards import run_shards
from overspan.bench.stream import Stream
from overspan.bench.trace import read_trace
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.workload import BenchResult, Workload
from support import openai_server as fake
from support.openai_server import Send, serving, steady

MS = 1_000_000


def measure(server: fake.Server, **fields: Any) -> BenchResult:
    load = {"requests": 8, "input_tokens": 24, "output_tokens": 4, "timeout_s": 10.0, **fields}
    return Bench(server.base_url, None, Workload.model_validate(load), calibrated=False).run()


@pytest.mark.parametrize(
    ("kind", "burstiness", "variation"),
    [("constant", 1.0, 0.0), ("poisson", 1.0, 1.0), ("gamma", 4.0, 0.5), ("gamma", 0.25, 2.0)],
)
def test_gaps_have_the_mean_and_variation_of_their_kind(kind: Arrival, burstiness: float, variation: float) -> None:
    times = arrivals(kind, 50.0, seed="x", requests=20_000, duration_s=None, burstiness=burstiness)
    gaps = [after - before for before, after in pairwise(times)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.pstdev(gaps) * 50 == pytest.approx(variation, rel=0.1, abs=1e-9)


def test_arrivals_repeat_with_their_seed_and_end_with_the_duration() -> None:
    one, same, other = (arrivals("poisson", 10, seed=seed, requests=None, duration_s=5.0) for seed in "aab")
    assert one == same != other
    assert one[-1] < 5.0 and one[0] == 0.0
    assert connections_for([0.0, 0.1, 0.2, 5.0]) == 3 + 16


def test_users_of_a_ramp_start_one_by_one() -> None:
    load = ClosedLoop(4, 100, lambda index, step: b"x", ramp_s=0.4)
    load.prepare()
    load.start(0)
    due: list[int] = []
    while (at := load.due_ns()) is not None and len(due) < 4:
        due.append(at)
        load.take()
    assert due == [0, 100 * MS, 200 * MS, 300 * MS]


def test_no_request_is_due_after_the_duration() -> None:
    load = ClosedLoop(1, None, lambda index, step: b"x", duration_s=1.0)
    load.prepare()
    load.start(0)
    first = load.take()
    load.ended(first, 999 * MS)
    assert load.due_ns() == 999 * MS
    load.ended(load.take(), 1000 * MS)
    assert (load.due_ns(), load.planned) == (None, 2)


def test_requests_are_made_in_their_order_ahead_or_not() -> None:
    load = ClosedLoop(2, 6, lambda index, step: b"%d" % index)
    load.start(0)
    taken = [load.take()]
    load.prepare()
    while load.due_ns() is not None:
        taken.append(load.take())
        load.ended(taken[-1], 1)
    assert [stream.request for stream in taken] == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_an_open_loop_keeps_its_times_when_the_server_does_not_keep_up() -> None:
    with serving(steady(ttft_s=2.0, itl_s=0.001)) as server:
        point = measure(server, arrival="constant", rates=[40.0], requests=12).points[0]
    assert (point.requests.ok, point.rate_per_s) == (12, 40.0)
    assert point.concurrency >= 10  # twelve in 0.3 s, each for 2 s
    assert (point.from_intended_ttft_ms.p50 or 0) >= (point.ttft_ms.p50 or 0)


def test_latency_from_intended_counts_the_wait_for_a_send() -> None:
    load = OpenLoop([0.0, 0.5], lambda index, step: b"%d" % index, connections=8)
    load.prepare()
    load.start(7 * MS)
    assert (load.due_ns(), load.take().intended_ns) == (7 * MS, 7 * MS)
    second = load.take()
    assert (second.intended_ns, second.request, load.due_ns()) == (507 * MS, b"1", None)


def test_a_duration_ends_a_closed_loop_and_lets_requests_end() -> None:
    with serving() as server:
        point = measure(server, concurrency=[2], duration_s=0.5).points[0]
    assert point.requests.ok == point.requests.planned >= 2
    assert point.requests.failed == 0


@pytest.mark.parametrize(
    ("notation", "low", "high", "mean"),
    [("64", 64, 64, 64), ("uniform:10-20", 10, 20, 15), ("normal:100,10", 40, 160, 100), ("file", 5, 7, 6)],
)
def test_lengths(notation: str, low: int, high: int, mean: int, tmp_path: Path) -> None:
    (tmp_path / "lengths").write_text("5\n7\n6\n")
    lengths = parse_lengths(notation if notation != "file" else f"file:{tmp_path / 'lengths'}")
    draw = random.Random(1)
    drawn = [lengths.draw(draw) for _ in range(2000)]
    assert low <= min(drawn) and max(drawn) <= high
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.03)
    assert lengths.mean == mean


@pytest.mark.parametrize(
    "notation",
    ["", "0", "-1", "a", "uniform:5", "uniform:9-3", "normal:1", "normal:x,1", "file:", "file:/no/such", "²", "1.5"],
)
def test_what_is_no_length(notation: str) -> None:
    with pytest.raises(InputError):
        parse_lengths(notation)


def test_lengths_reach_the_server() -> None:
    with serving() as server:
        measure(server, concurrency=[2], input_lengths="uniform:20-40", output_lengths="uniform:2-6")
    requests = server.requests[1:]
    assert len({request["max_tokens"] for request in requests}) > 1
    assert all(20 <= fake.prompt_tokens(request) <= 40 for request in requests)
    assert len({fake.prompt_tokens(request) for request in requests}) > 2


def test_turns_repeat_what_was_said_and_share_a_prefix() -> None:
    with serving() as server:
        measure(server, concurrency=[2], requests=8, turns=3, shared_prefix_tokens=10, input_tokens=30)
    talks = [request["messages"] for request in server.requests[1:]]
    assert len({talk[0]["content"] for talk in talks}) == 1
    assert talks[0][0]["role"] == "system" and len(talks[0][0]["content"].split()) == 10
    assert sorted(len(talk) for talk in talks) == [2, 2, 2, 2, 4, 4, 6, 6]
    longest = [talk for talk in talks if len(talk) == 6]
    for talk in longest:
        assert [message["role"] for message in talk] == ["system", "user", "assistant", "user", "assistant", "user"]
        assert talk[:2] in talks and talk[:4] in talks


MOONCAKE = [
    {"timestamp": 0, "input_length": 700, "output_length": 3, "hash_ids": [7, 8]},
    {"timestamp": 200, "input_length": 600, "output_length": 5, "hash_ids": [7, 9]},
]


def test_a_mooncake_trace_is_replayed_with_its_times_and_shared_blocks(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in MOONCAKE))
    with serving() as server:
        point = measure(server, arrival="trace", trace=str(path), requests=10, trace_speed=2.0).points[0]
    # The server's threads may note two requests in either order.
    asked = sorted(server.requests[1:], key=lambda request: request["max_tokens"])
    one, two = (request["messages"][0]["content"].split() for request in asked)
    assert (len(one) + 7, len(two) + 7) == (700, 600)  # the server adds seven
    assert one[:512] == two[:512] and one[512:593] != two[512:593]
    assert [request["max_tokens"] for request in asked] == [3, 5]
    assert point.requests.ok == point.requests.planned == 2
    assert 0.1 <= (point.duration_s or 0) < 5


def test_other_line_ends_in_a_text_end_no_line(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    talk = {"conversations": [{"value": "one\u2028two\u0085three"}, {"value": "four"}]}
    file.write_text("\ufeff" + json.dumps(talk, ensure_ascii=False) + "\r\n", encoding="utf-8")
    (entry,), timed = read_trace(file)
    assert (entry.text, timed) == ("one\u2028two\u0085three", False)


@pytest.mark.parametrize("lines", [False, True])
def test_sharegpt_texts_are_asked(lines: bool, tmp_path: Path) -> None:
    path = tmp_path / "share.json"
    turns = [{"from": "human", "value": "What is a whale?"}, {"from": "gpt", "value": "A large animal of the sea."}]
    talks = [{"id": "a", "conversations": turns}, {"id": "b", "conversations": turns[:1]}]
    path.write_text("\n".join(map(json.dumps, talks)) if lines else json.dumps(talks))
    with serving() as server:
        measure(server, concurrency=[1], requests=2, trace=str(path))
    assert [request["messages"][0]["content"] for request in server.requests[1:]] == ["What is a whale?"] * 2
    assert server.requests[1]["max_tokens"] == 8  # six words


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no request"),
        ("[]", "holds no request"),
        ('{"timestamp": 0}', "line 1"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 1}', "line 1"),
        ("[1]", "entry 1"),
        ("[{]", "not JSON"),
        ("nonsense", "line 1"),
    ],
)
def test_a_damaged_trace(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_trace(path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"arrival": "poisson"},
        {"arrival": "trace"},
        {"concurrency": [1], "search": True},
        {"arrival": "poisson", "rates": [1.0], "turns": 2},
        {"concurrency": [1], "trace": "/no/such/file"},
        {"concurrency": [1], "input_lengths": "soon"},
    ],
)
def test_workloads_that_do_not_fit_together(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        check_workload(Workload.model_validate({"requests": 1, "input_tokens": 1, "output_tokens": 1, **fields}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"arrival": "poisson", "rates": [1.0], "ramp_s": 5}, "a ramp is of users"),
        ({"arrival": "poisson", "rates": [1.0], "burstiness": 0.5}, "burstiness is of gamma"),
        ({"concurrency": [1], "trace_speed": 2}, "a speed is of a trace"),
        ({"arrival": "trace", "trace": "t", "search": True, "slo_ms": {"ttft": 1.0}}, "a search changes"),
        ({"concurrency": [1], "trace": "t", "turns": 2}, "brings its own prompts"),
        ({"concurrency": [1], "trace": "t", "shared_prefix_tokens": 2}, "brings its own prompts"),
        ({"concurrency": [1], "shared_prefix_tokens": 9}, "cannot begin with 9"),
    ],
)
def test_what_would_have_no_effect_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_workload(Workload.model_validate({"requests": 1, "input_tokens": 9, "output_tokens": 1, **fields}))


def test_a_search_finds_the_highest_load_within_the_limits() -> None:
    lock_free_users = 3

    def crowded(body: dict[str, Any], send: Send, number: int) -> None:
        running.append(number)
        fake.answer(body, send, ttft_s=0.02 if len(running) <= lock_free_users else 0.6, itl_s=0.001)
        running.remove(number)

    running: list[int] = []
    with serving(crowded) as server:
        result = measure(server, concurrency=[1], requests=12, slo_ms={"ttft": 400.0}, slo_share=0.9, search=True)
    tried = {point.concurrency: point.goodput.share for point in result.points if point.goodput}
    assert tried[1] == tried[2] == 1.0 and tried[4] < 0.9
    assert any("3 users" in note for note in result.notes), (result.notes, tried)


def test_a_search_asks_for_enough_to_reach_its_load_and_ends_where_the_client_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("overspan.bench.run.most_connections", lambda: 6)
    with serving(steady(0.01, 0.001)) as server:
        result = measure(server, concurrency=[1], requests=4, slo_ms={"ttft": 5000.0}, search=True)
    assert [(point.concurrency, point.requests.planned) for point in result.points] == [
        (1, 4),
        (2, 8),
        (4, 16),
        (6, 24),
    ]
    assert any("6 users, more than which this client cannot open" in note for note in result.notes), result.notes
    assert Search(2.0, whole=False, share=1.0).enough(16.0, 50) == 400


def test_a_search_that_finds_none_says_so() -> None:
    with serving(steady(0.05, 0.001)) as server:
        result = measure(server, concurrency=[2], requests=4, slo_ms={"ttft": 1.0}, search=True)
    assert any(note.endswith("none, not even 1 user") for note in result.notes), result.notes


def test_more_users_than_requests_is_said() -> None:
    with serving(steady(0.01, 0.001)) as server:
        result = measure(server, concurrency=[8], requests=2)
    assert "at 8 users there were 2 requests: never more than that in flight" in result.notes


def test_what_was_measured_is_kept_when_the_client_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_at_two(job: LoadJob, progress: LoadProgress | None = None) -> tuple[list[Stream], Audit, int]:
        if job.level.users == 2:
            raise OverspanError("a process of the load generator died")
        return run_shards(job, progress)

    monkeypatch.setattr(run, "run_shards", fails_at_two)
    load = Workload(concurrency=[1, 2, 4], requests=4, input_tokens=24, output_tokens=4)
    with serving(steady(0.01, 0.001)) as server:
        job = Bench(server.base_url, None, load, calibrated=False)
        result = job.run()
    assert [point.concurrency for point in result.points] == [1] and job.broke
    assert "ended before its time: a process of the load generator died" in result.notes
