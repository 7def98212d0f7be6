"""A sweep's page: the GB200 ladder with made-up numbers, some points failed or missing."""

from __future__ import annotations

from typing import Any

from overspan.schema.point import Point, PointResult
from overspan.schema.workload import BenchPoint, Distribution, RequestCounts
from overspan.sweep.expand import matrix_of
from overspan.sweep.folder import MeasuredSweep
from overspan.sweep.results import derive


def spread(middle: float) -> Distribution:
    return Distribution(mean=middle * 1.02, p50=middle, p90=middle * 1.2, p95=middle * 1.3, p99=middle * 1.6)


def measured(point: Point, slower: float = 1.1) -> BenchPoint:
    """As the planner expects it, a little slower."""
    seen = point.estimate
    assert seen.tpot_ms is not None and seen.ttft_ms is not None and seen.output_tokens_per_s is not None
    tpot, ttft, output = seen.tpot_ms * slower, seen.ttft_ms * slower, seen.output_tokens_per_s / slower
    return BenchPoint(
        concurrency=point.concurrency,
        requests=RequestCounts(planned=point.requests, ok=point.requests, failed=0),
        ttft_ms=spread(ttft),
        tpot_ms=spread(tpot),
        itl_ms=spread(tpot),
        e2e_ms=spread(ttft + 1024 * tpot),
        output_tokens_per_s=output,
        input_tokens_per_s=output * point.isl / point.osl,
        total_tokens_per_s=output * (1 + point.isl / point.osl),
    )


def result(point: Point, **fields: Any) -> PointResult:
    seen = measured(point)
    known: dict[str, Any] = {
        "state": "ok",
        "started_at": "2026-11-22T20:00:00+00:00",
        "ended_at": "2026-11-22T20:01:00+00:00",
    }
    known |= {"measured": seen, "derived": derive(point, seen), "overspan_version": "0", **fields}
    return PointResult(point=point, **known)


def a_sweep(failed: int = 1, missing: int = 1, reason: str = "3 of 40 requests failed (timeout 3)") -> MeasuredSweep:
    """The 1k1k ladder: the first points failed, the last are missing."""
    points = matrix_of("m3-gb200-1k1k", None, to_start=False).points
    ended = [*(result(point, state="failed", reason=reason) for point in points[:failed])]
    ended += [result(point) for point in points[failed : len(points) - missing]]
    return MeasuredSweep("m3-gb200-1k1k-20261122-200000-abcd", points, {each.point.id: each for each in ended})
