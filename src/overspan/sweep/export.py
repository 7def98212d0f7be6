"""Results as a table: a row a point, with the same columns in CSV and in Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overspan.schema.errors import InputError
from overspan.schema.point import Result
from overspan.schema.workload import Distribution

_LATENCIES = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")
_POINT = ("id", "sweep", "scenario", "isl", "osl", "topology", "name", "concurrency", "nodes", "ranks", "gpus_used",
          "gpus_reserved", "model", "engine", "image", "recipe_hash")  # fmt: skip


def rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One flat row a result; units stand in the names of the columns."""
    return [_row(result) for result in results]


def _row(result: Result) -> dict[str, Any]:
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
    for group, name in (("tokens_per_s", "tokens_per_s"), ("per_gpu", "tokens_per_s_per_gpu"),
                        ("per_gpu_reserved", "tokens_per_s_per_gpu_reserved")):  # fmt: skip
        held = result.derived.get(group, {})
        row |= {f"{kind}_{name}": held.get(kind) for kind in ("total", "output", "input")}
    row["interactivity_tokens_per_s"] = result.derived.get("interactivity")
    row["client_bound"] = seen.client_bound if seen else None
    for name in ("tpot_ms", "ttft_ms", "output_tokens_per_s"):
        row[f"predicted_{name}"] = point.estimate.get(name)
    return row


def as_csv(results: Sequence[Result]) -> str:
    """The rows as CSV, with a header."""
    table = rows(results)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def write_parquet(results: Sequence[Result], path: Path) -> None:
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
