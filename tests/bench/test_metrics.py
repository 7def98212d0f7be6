"""Numbers from requests whose times are known."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.audit import Audit
from overspan.bench.levels import Level
from overspan.bench.metrics import counts, goodput, in_flight, steady, summary, throughput
from overspan.bench.point import make_point
from overspan.bench.stream import Stream
from overspan.schema.workload import BenchResult

MS = 1_000_000
START_MS = 1_000_000  # a send at 0 means never sent


def stream(send_ms: int, stamps_ms: list[int], *, tokens: int | None = None, error: str | None = None) -> Stream:
    send_ms, stamps_ms = send_ms + START_MS, [stamp + START_MS for stamp in stamps_ms]
    made = Stream(0, b"", send_ms * MS)
    made.send_ns = send_ms * MS
    made.stamps = array("q", [stamp * MS for stamp in stamps_ms])
    made.usage = {"completion_tokens": tokens or len(stamps_ms), "prompt_tokens": 10}
    made.end_ns = max([*stamps_ms, send_ms]) * MS
    made.error = error
    return made


def test_summary_matches_linear_percentiles() -> None:
    found = summary([float(value) for value in range(1, 102)])
    assert (found.mean, found.p50, found.p90, found.p95, found.p99) == (51.0, 51.0, 91.0, 96.0, 100.0)
    assert summary([]).mean is None


def test_latencies_of_one_request() -> None:
    point = make_point(Level(users=1), 1, [stream(100, [150, 160, 180])], Audit())
    assert (point.ttft_ms.mean, point.tpot_ms.mean, point.e2e_ms.mean) == (50.0, 15.0, 80.0)
    assert (point.itl_ms.mean, point.itl_ms.p99) == (15.0, 19.9)
    assert point.output_tokens_per_s == pytest.approx(3 / 0.08)
    assert point.total_tokens_per_s == pytest.approx(13 / 0.08)


def test_tokens_of_the_first_chunk_are_no_part_of_the_time_per_token() -> None:
    one = stream(0, [50, 90], tokens=5)
    one.first_usage = 3
    assert make_point(Level(users=1), 1, [one], Audit()).tpot_ms.mean == 20.0


def test_failed_requests_count_but_lend_no_times() -> None:
    streams = [stream(0, [50]), stream(0, [], error="timeout"), stream(10, [20], error="broken_stream")]
    found = counts(streams, 5)
    assert (found.ok, found.failed, found.errors) == (1, 4, {"broken_stream": 1, "not_sent": 2, "timeout": 1})
    assert make_point(Level(users=3), 5, streams, Audit()).ttft_ms.p99 == 50.0
    assert throughput(streams).output_tokens_per_s == pytest.approx(1 / 0.05)


def test_goodput_is_of_all_requests() -> None:
    streams = [stream(0, [50, 60]), stream(0, [150, 160]), stream(0, [], error="http_500"), stream(0, [50, 100])]
    found = goodput(streams, {"ttft": 100.0, "tpot": 20.0})
    assert found is not None
    assert found.share == 0.25
    assert found.requests_per_s == pytest.approx(1 / 0.16, rel=1e-3)
    assert goodput(streams, {}) is None


def test_the_steady_window_leaves_out_the_start_and_the_end() -> None:
    # Two users: the second joins at 100, the last send is at 400.
    streams = [
        stream(0, [50, 200]),
        stream(100, [150, 300]),
        stream(200, [260, 390]),
        stream(300, [350, 600]),
        stream(400, [450]),
    ]
    share, peak, window = in_flight(streams, 2)
    assert window is not None
    assert (window.begin_ns // MS - START_MS, window.end_ns // MS - START_MS, peak) == (100, 400, 2)
    assert share == pytest.approx((2 * 100 + 2 * 100 + 2 * 90 + 1 * 10) / 300 / 2)
    inside = steady(streams, window)
    assert inside is not None
    assert (inside.requests, inside.ttft_ms.mean) == (2, 55.0)  # sent at 100 and at 200
    assert inside.output_tokens_per_s == pytest.approx(6 / 0.3)


def test_a_load_that_never_was_full_has_no_steady_window() -> None:
    assert in_flight([stream(0, [50]), stream(60, [80])], 2) == (None, 1, None)


def audited(**fields: object) -> list[str]:
    audit = Audit(reads=1000, wall_s=10.0, cpu_s=1.0)
    for name, value in fields.items():
        setattr(audit, name, value)
    streams = [stream(step, [step + 100, step + 120, step + 140]) for step in range(0, 1000, 10)]
    point = make_point(Level(rate_per_s=100.0), 100, streams, audit)
    assert point.client_bound == bool(point.client.reasons)
    return list(point.client.reasons)


def test_a_client_that_kept_up_is_not_the_bottleneck() -> None:
    assert audited(lags=array("q", [MS // 10] * 100)) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cpu_s": 9.9}, "of a core"),
        ({"lags": array("q", [50 * MS] * 100)}, "after their arrival"),
        ({"unstamped": 1000, "batches": array("q", [30 * MS] * 100)}, "without kernel timestamps"),
        ({"clock_drift_ns": 5 * MS}, "clock was set"),
    ],
)
def test_what_spoils_the_numbers_is_said(fields: dict[str, object], says: str) -> None:
    assert [reason for reason in audited(**fields) if says in reason]


def test_late_sends_and_missing_concurrency_are_said() -> None:
    late = [stream(step, [step + 100, step + 120]) for step in range(0, 1000, 10)]
    for each in late:
        each.intended_ns -= 30 * MS
    point = make_point(Level(rate_per_s=1.0), 100, late, Audit())
    assert "sent up to 30.0 ms late" in point.client.reasons[0]
    thin = [stream(0, [100]), stream(0, [100]), stream(500, [600]), stream(1000, [1100])]
    assert "in flight on average" in " ".join(make_point(Level(users=2), 4, thin, Audit()).client.reasons)


def test_users_that_pause_because_the_server_hung_up_are_no_fault_of_the_client() -> None:
    broken = [stream(step, [step + 50]) for step in range(0, 1000, 100)]
    for each in broken:
        each.error = "broken_stream"
    kept_up = [stream(step, [step + 100]) for step in range(0, 1100, 100)]
    point = make_point(Level(users=2), 21, [*broken, *kept_up], Audit())
    assert point.client.concurrency_share == pytest.approx(0.75, abs=0.01)
    assert point.client.reasons == []
    for each in broken:
        each.error = "http_500"  # nobody pauses after these
    assert make_point(Level(users=2), 21, [*broken, *kept_up], Audit()).client.reasons


def kept(before: Any, after: Any) -> bool:
    """Whether a document still says all that it said, perhaps with more."""
    if isinstance(before, dict):
        return all(key in after and kept(value, after[key]) for key, value in before.items())
    if isinstance(before, list):
        return len(before) == len(after) and all(map(kept, before, after))
    return bool(before == after)


def test_a_bench_json_of_before_is_read_and_written_as_it_was() -> None:
    # The second point is of a version that knew fewer numbers, the third of one that had no audit.
    text = (Path(__file__).parent / "captured_bench.json").read_text(encoding="utf-8")
    result = BenchResult.model_validate_json(text)
    assert kept(json.loads(text), json.loads(result.model_dump_json()))
    assert [point.client.concurrency_peak for point in result.points] == [2, 2, None]
