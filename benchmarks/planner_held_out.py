"""The planner on published measurements that nothing was fitted to: other models, other GPUs, other people.

    python benchmarks/planner_held_out.py

Rows: benchmarks/data/held_out.csv, each with its source. They check the physics: no constant may be chosen by them.
"""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path
from typing import Any

from overspan.catalog import hardware, models
from overspan.planner import predict
from overspan.planner.features import Case, Setting
from overspan.schema.layout import parse_layout
from overspan.schema.prediction import Prediction
from overspan.schema.workload import Demand

DATA = Path(__file__).parent / "data" / "held_out.csv"


def rows() -> list[dict[str, str]]:
    """The published rows."""
    with DATA.open() as file:
        return list(csv.DictReader(file))


def predicted(row: dict[str, str]) -> Prediction:
    """What the planner says of a row."""
    case = Case(
        model=models.find(row["model"]),
        layout=parse_layout(row["layout"]),
        hardware=hardware.find(row["gpu"]),
        demand=Demand(isl=float(row["isl"]), osl=float(row["osl"]), concurrency=int(row["concurrency"])),
        setting=Setting(backend=row["backend"], eager=row["eager"] == "1", kv_value_bytes=float(row["kv_value_bytes"])),
        gpus_per_host=int(row["gpus_per_host"]),
    )
    return predict.predict(case)


def compared(row: dict[str, str]) -> dict[str, Any]:
    """One row: predicted and measured, and whether the interval holds the measurement."""
    seen, tpot = predicted(row), float(row["tpot_ms"])
    found = {
        "what": f"{row['model']} {row['layout']} {row['gpu']} {row['isl']}/{row['osl']} x{row['concurrency']}",
        "tpot_ms": round(seen.tpot_ms, 2),
        "measured_tpot_ms": tpot,
        "error": round(seen.tpot_ms / tpot - 1, 3),
        "inside": seen.interval.low <= tpot <= seen.interval.high,
        "terms": {name: round(value, 2) for name, value in seen.terms.items()},
    }
    if row["ttft_ms"]:
        found["ttft_error"] = round(seen.ttft_ms / float(row["ttft_ms"]) - 1, 3)
    return found


def main() -> None:
    """Print every row and the means as JSON."""
    table = [compared(row) for row in rows()]
    waits = [abs(row["ttft_error"]) for row in table if "ttft_error" in row]
    card = {
        "rows": table,
        "tpot_mean": round(statistics.mean(abs(row["error"]) for row in table), 3),
        "ttft_mean": round(statistics.mean(waits), 3),
        "inside_80": round(statistics.mean(row["inside"] for row in table), 3),
    }
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
