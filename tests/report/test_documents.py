import json

import pytest

from overspan.report import request_curves
from overspan.report.documents import CURVE_STEPS
from overspan.schema.errors import RunDamaged
from support.run_documents import point, request_lines, run


def line(**fields: object) -> str:
    return json.dumps({"error": None, "ttft_ms": 1.0, "tpot_ms": 1.0, "e2e_ms": 1.0, "itl_ms": [], **fields})


def test_curves_are_the_cumulative_distribution_of_ok_requests() -> None:
    lines = [line(ttft_ms=value) for value in (40.0, 10.0, 20.0, 10.0)]
    lines.append(json.dumps({"ttft_ms": 9999.0, "error": "timeout"}))
    assert request_curves(lines, "here")["ttft_ms"] == [(10.0, 50.0), (20.0, 75.0), (40.0, 100.0)]


def test_latencies_follow_from_the_stamps_of_a_request() -> None:
    stamps = {"send_ms": 100.0, "first_token_ms": 140.0, "last_token_ms": 440.0, "end_ms": 450.0}
    tokens = {"output_tokens": 64, "first_chunk_tokens": 4, "chunks": 20}
    curves = request_curves([json.dumps({"error": None, **stamps, **tokens})], "here")
    assert {metric: curve[0][0] for metric, curve in curves.items() if curve} == {
        "ttft_ms": 40.0, "tpot_ms": 5.0, "e2e_ms": 350.0,
    }  # fmt: skip


def test_a_request_of_one_chunk_has_no_tpot() -> None:
    stamps = {"send_ms": 0.0, "first_token_ms": 5.0, "last_token_ms": 5.0, "end_ms": 6.0}
    tokens = {"output_tokens": 4, "first_chunk_tokens": 4, "chunks": 1}
    curves = request_curves([json.dumps({"error": None, **stamps, **tokens})], "here")
    assert (curves["tpot_ms"], curves["ttft_ms"]) == ([], [(5.0, 100.0)])


def test_metrics_known_only_by_their_summary_are_named() -> None:
    assert run().summarised == ["ITL"]
    assert run(latencies={}).summarised == ["TTFT", "TPOT", "ITL", "E2E"]


def test_every_gap_of_every_request_counts() -> None:
    curves = request_curves([line(itl_ms=[1.0, 3.0]), line(itl_ms=[3.0, 4.0])], "here")
    assert curves["itl_ms"] == [(1.0, 25.0), (3.0, 75.0), (4.0, 100.0)]


def test_a_curve_stays_small_and_right_however_many_tokens_there_were() -> None:
    curve = request_curves([line(itl_ms=[1 + index / 997 for index in range(20_000)])], "here")["itl_ms"]
    assert len(curve) <= CURVE_STEPS + 1
    assert curve[-1][1] == 100.0
    median = next(value for value, percent in curve if percent >= 50)
    assert median == pytest.approx(1 + 10_000 / 997, rel=0.01)


def test_a_request_without_a_value_adds_none() -> None:
    assert request_curves([line(tpot_ms=None)], "here")["tpot_ms"] == []


@pytest.mark.parametrize("bad", ["{", "[1]", '{"ttft_ms": 1}', '{"error": null, "ttft_ms": "soon"}', "null"])
def test_a_damaged_line_is_named(bad: str) -> None:
    with pytest.raises(RunDamaged) as caught:
        request_curves([line(), bad], "requests-4.jsonl")
    assert "requests-4.jsonl, line 2" in caught.value.what
    assert caught.value.quote == bad


def test_a_point_without_its_requests_falls_back_to_the_summary() -> None:
    measured = point(4)
    documents = run(latencies={})
    summary = measured.ttft_ms
    assert documents.curve(measured, "ttft_ms") == [
        (summary.p50, 50.0), (summary.p90, 90.0), (summary.p95, 95.0), (summary.p99, 99.0),
    ]  # fmt: skip
    kept = run(latencies={4: request_curves(request_lines(4, 32), "here")})
    assert len(kept.curve(measured, "ttft_ms")) > 10
