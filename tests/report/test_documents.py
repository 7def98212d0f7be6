import pytest

from overspan.report import request_curves
from overspan.report.documents import CURVE_STEPS, Curve
from overspan.schema.workload import AnsweredRequest
from support.run_documents import curves, point, run


def request(**times: object) -> AnsweredRequest:
    known = {"e2e_ms": 1.0, "ttft_ms": 1.0, "tpot_ms": 1.0, "itl_ms": [], "end_at_ms": 2.0, "output_tokens": 4}
    stamps = {"first_token_at_ms": 1.0, "last_token_at_ms": 2.0}
    return AnsweredRequest.model_validate({**known, **stamps, **times})


def curve(metric: str, *requests: AnsweredRequest | None) -> Curve:
    return request_curves(requests)[metric]


def test_curves_are_the_cumulative_distribution_of_the_requests_that_ended_well() -> None:
    requests = [request(ttft_ms=value) for value in (40.0, 10.0, 20.0, 10.0)]
    assert curve("ttft_ms", *requests, None) == [(10.0, 50.0), (20.0, 75.0), (40.0, 100.0)]


def test_metrics_known_only_by_their_summary_are_named() -> None:
    assert run().summarised == []
    assert run(latencies={}).summarised == ["TTFT", "TPOT", "ITL", "E2E"]


def test_every_gap_of_every_request_counts() -> None:
    found = curve("itl_ms", request(itl_ms=[1.0, 3.0]), request(itl_ms=[3.0, 4.0]))
    assert found == [(1.0, 25.0), (3.0, 75.0), (4.0, 100.0)]


def test_a_curve_stays_small_and_right_however_many_tokens_there_were() -> None:
    found = curve("itl_ms", request(itl_ms=[1 + index / 997 for index in range(20_000)]))
    assert len(found) <= CURVE_STEPS + 1
    assert found[-1][1] == 100.0
    median = next(value for value, percent in found if percent >= 50)
    assert median == pytest.approx(1 + 10_000 / 997, rel=0.01)


def test_a_request_without_a_value_adds_none() -> None:
    assert curve("tpot_ms", request(tpot_ms=None)) == []


def test_a_point_without_its_requests_falls_back_to_the_summary() -> None:
    measured = point(4)
    documents = run(latencies={})
    summary = measured.ttft_ms
    assert documents.curve(measured, "ttft_ms") == [
        (summary.p50, 50.0), (summary.p90, 90.0), (summary.p95, 95.0), (summary.p99, 99.0),
    ]  # fmt: skip
    kept = run(latencies={4: curves(4)})
    assert len(kept.curve(measured, "ttft_ms")) > 10
