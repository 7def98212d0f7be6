"""Results: whether a point counts, what follows from its measurement, and all of them as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from overspan.schema.errors import InputError
from overspan.schema.finding import Finding
from overspan.schema.point import Derived, Point, PointResult, Rates, TokenKind
from overspan.schema.sweep import Constraints
from overspan.schema.topology import RoleName
from overspan.schema.workload import BenchPoint, Distribution

_TOKENS_OF: Final[Mapping[RoleName, tuple[TokenKind, ...]]] = {
    "prefill": ("input",),
    "decode": ("output",),
    "aggregated": ("input", "output"),
}
"""What the workers of a role make."""
_LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
_POINT = ("id", "sweep", "scenario", "isl", "osl", "topology", "name", "concurrency", "nodes", "ranks", "gpus_used",
          "gpus_reserved", "model", "engine", "image", "recipe_hash")  # fmt: skip
_RATES = {"tokens_per_s": "tokens_per_s", "per_gpu": "tokens_per_s_per_gpu",
          "per_gpu_reserved": "tokens_per_s_per_gpu_reserved"}  # fmt: skip


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


def derive(point: Point, measured: BenchPoint) -> Derived:
    """What follows from a measurement and its point: throughput per GPU, per role, and the prediction beside it."""
    rates: Rates = {
        "total": measured.total_tokens_per_s,
        "output": measured.output_tokens_per_s,
        "input": measured.input_tokens_per_s,
    }
    tpot = measured.tpot_ms.p50
    return Derived(
        tokens_per_s=rates,
        per_gpu=_over(rates, point.gpus_used or point.ranks),
        per_gpu_reserved=_over(rates, point.gpus_reserved or point.ranks),
        per_role={
            name: _over({kind: rates[kind] for kind in _TOKENS_OF[name]}, role.gpus or role.ranks)
            for name, role in point.roles.items()
            if role.ranks
        },
        unit="GPU" if point.gpus_used else "rank",
        interactivity=round(1e3 / tpot, 4) if tpot else None,
        predicted_to_measured=_ratios(point, measured),
    )


def _over(rates: Rates, units: int) -> Rates:
    return {kind: None if rate is None else round(rate / units, 4) for kind, rate in rates.items()}


def _ratios(point: Point, measured: BenchPoint) -> dict[str, float]:
    pairs = {
        "tpot_ms": measured.tpot_ms.mean,
        "ttft_ms": measured.ttft_ms.mean,
        "output_tokens_per_s": measured.output_tokens_per_s,
    }
    said = {name: getattr(point.estimate, name) for name in pairs}
    return {name: round(said[name] / value, 4) for name, value in pairs.items() if value and said[name] is not None}


def rows(results: Sequence[PointResult]) -> list[dict[str, Any]]:
    """One flat row a result; units stand in the names of the columns."""
    return [_row(result) for result in results]


def _row(result: PointResult) -> dict[str, Any]:
    point, seen = result.point, result.measured
    row: dict[str, Any] = {name: getattr(point, name) for name in _POINT}
    for name in ("prefill", "decode", "aggregated"):
        role = point.roles.get(name)
        row |= {f"{name}_workers": role.workers if role else None, f"{name}_layout": role.layout if role else None}
    row |= {"state": result.state, "reason": result.reason, "run": result.run, "engine_version": result.engine_version}
    row |= {"started_at": result.started_at, "ended_at": result.ended_at}
    requests = seen.requests if seen else None
    for count in ("planned", "ok", "failed"):
        row[f"requests_{count}"] = getattr(requests, count) if requests else None
    for metric in _LATENCIES:
        times = getattr(seen, metric) if seen else Distribution()
        row |= {f"{metric}_{name}": value for name, value in times.model_dump().items()}
    for group, name in _RATES.items():
        rates: Rates = getattr(result.derived, group, {})
        row |= {f"{kind}_{name}": rates.get(kind) for kind in get_args(TokenKind)}
    row["interactivity_tokens_per_s"] = result.derived.interactivity if result.derived else None
    row["client_bound"] = seen.client_bound if seen else None
    row["disturbed"] = seen.disturbed if seen else None
    for name in ("tpot_ms", "ttft_ms", "output_tokens_per_s"):
        row[f"predicted_{name}"] = getattr(point.estimate, name)
    return row


def as_csv(results: Sequence[PointResult]) -> str:
    """The rows as CSV, with a header."""
    table = rows(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def write_parquet(results: Sequence[PointResult], path: Path) -> None:
    """The rows as Parquet.

    Raises:
        InputError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise InputError("Parquet needs pyarrow", next="pip install 'overspan[parquet]', or write .csv") from None
    parquet.write_table(arrow.Table.from_pylist(rows(results)), path)
