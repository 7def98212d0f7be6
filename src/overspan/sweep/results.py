"""Whether a point counts, and what follows from its measurement: rates per GPU and role, prediction beside it."""

from __future__ import annotations

from typing import Any

from overspan.schema.finding import Finding
from overspan.schema.point import Point
from overspan.schema.sweep import Constraints
from overspan.schema.workload import BenchPoint


def why_not(measured: BenchPoint, verification: list[Finding], constraints: Constraints) -> str:
    """Why a point is not ok; empty when it is."""
    counts = measured.requests
    wrong = [finding for finding in verification if finding.status == "failed"]
    if wrong:
        return f"verification failed: {wrong[0].cause or wrong[0].rule}"
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(counts.errors.items()))
    if counts.ok + counts.failed != counts.planned:
        return f"{counts.planned - counts.ok - counts.failed} of {counts.planned} requests are not accounted for"
    if not counts.ok:
        return f"none of {counts.planned} requests succeeded ({kinds})"
    if counts.failed > constraints.failed_share * counts.planned:
        limit = f"the limit is {constraints.failed_share:.1%}"
        return f"{counts.failed} of {counts.planned} requests failed ({kinds}); {limit}"
    if not measured.output_tokens_per_s or measured.output_tokens_per_s <= 0:
        return "no token was generated"
    return ""


def derive(point: Point, measured: BenchPoint) -> dict[str, Any]:
    """What follows from a measurement and its point. Rates are tokens a second.

    `per_gpu` divides by the GPUs used, `per_gpu_reserved` by those of every node taken; on CPUs, which have none, by
    ranks. Source of the definitions: docs/sources.md#racks, Metrics.
    """
    rates = {
        "total": measured.total_tokens_per_s,
        "output": measured.output_tokens_per_s,
        "input": measured.input_tokens_per_s,
    }
    tpot = measured.tpot_ms.p50
    return {
        "tokens_per_s": rates,
        "per_gpu": _over(rates, point.gpus_used or point.ranks),
        "per_gpu_reserved": _over(rates, point.gpus_reserved or point.ranks),
        "per_role": _roles(point, rates),
        "unit": "GPU" if point.gpus_used else "rank",
        "interactivity": round(1e3 / tpot, 4) if tpot else None,
        "predicted_to_measured": _ratios(point, measured),
    }


def _over(rates: dict[str, float | None], units: int) -> dict[str, float | None]:
    return {name: None if rate is None else round(rate / units, 4) for name, rate in rates.items()}


def _roles(point: Point, rates: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Input for the GPUs that prefill, output for those that decode, both where they are the same."""
    does = {"prefill": ("input",), "decode": ("output",), "aggregated": ("input", "output")}
    return {
        name: _over({rate: rates[rate] for rate in does[name]}, role.gpus or role.ranks)
        for name, role in point.roles.items()
        if role.ranks
    }


def _ratios(point: Point, measured: BenchPoint) -> dict[str, float]:
    pairs = {
        "tpot_ms": measured.tpot_ms.mean,
        "ttft_ms": measured.ttft_ms.mean,
        "output_tokens_per_s": measured.output_tokens_per_s,
    }
    return {
        name: round(float(point.estimate[name]) / value, 4)
        for name, value in pairs.items()
        if value and name in point.estimate
    }
