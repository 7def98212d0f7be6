"""How well the planner predicts what it was not fitted on: a scorecard.

    python benchmarks/planner_accuracy.py [--rows] [--write]

Measured GPU kinds are left out one at a time, and so are the rows of the two-Spark table. The planner's own priors are
scored too: how good it is before any measurement.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from overspan.catalog import calibration, hardware, models
from overspan.planner import features, fit, predict
from overspan.planner.features import Case, Setting
from overspan.planner.fit import MeasuredTime
from overspan.schema.layout import Layout, parse_layout
from overspan.schema.prediction import Calibration
from overspan.schema.recipe import Recipe
from overspan.schema.workload import Demand

FITTED = Path(str(calibration.__file__)).with_name(calibration.FITTED)
DATA = Path(__file__).parent / "data"
MEAN_LENGTH = 0.9
MODELS = {"fp4": "minimax-m2.7-nvfp4", "fp8": "minimax-m2.5"}  # nvidia's FP4 has every linear layer in NVFP4
TARGETS = {"tpot": 0.09, "order": 0.93, "ttft": 0.25, "sparks": 0.06}


class Row(NamedTuple):
    """One measured point, as a case of the planner's."""

    gpu: str
    case: Case
    capacity: float
    tpot_ms: float
    ttft_ms: float


def rows() -> list[Row]:
    """The measured points of benchmarks/data."""
    with (DATA / "minimax_m2.5_measured.csv").open() as file:
        return [row(line) for line in csv.DictReader(file)]


def row(line: dict[str, str]) -> Row:
    """One line of the table; see benchmarks/data/README.md for what its labels mean."""
    gpu, tp, dp = line["gpu"], int(float(line["tp"])), int(float(line["dp"]))
    tp = 1 if dp > 1 else tp
    spread = dp > 1 or (gpu == "h200" and tp == 8)
    model, spec = models.find(MODELS[line["precision"]]), hardware.find(gpu)
    isl, osl = int(line["isl"]), int(line["osl"])
    setting = Setting(
        backend=predict.backend_of(model, spec),
        kv_value_bytes=1.0,
        batched_tokens=2 * isl if gpu == "b300" else 16384,
        engine_version=line["engine_version"],
    )
    case = Case(
        model=model,
        layout=Layout(tp=tp, dp=dp, ep=tp * dp if spread else 1),
        hardware=spec,
        demand=Demand(isl=isl * MEAN_LENGTH, osl=osl * MEAN_LENGTH, concurrency=int(line["concurrency"])),
        setting=setting,
    )
    args = {
        "gpu_memory_utilization": 0.9 if gpu == "b300" else 0.95,
        "kv_cache_dtype": "fp8",
        "max_num_batched_tokens": 2048,
    }
    recipe = Recipe(name="row", model=model.name, engine_args=args)
    capacity = predict.capacity_of(case, recipe, spec.memory.bytes)
    return Row(gpu, case, capacity, float(line["tpot_ms"]), float(line["ttft_ms"]))


def trained(held: list[Row], extra: list[tuple[str, Case, float, bool]] | None = None) -> Calibration:
    """The priors, fitted to some rows (and some of the two-Spark table): TPOT first, then TTFT on top of it."""
    points = [MeasuredTime(item.tpot_ms, features.decode(item.case, _running(item))) for item in held]
    points += [MeasuredTime(1e3 / speed, features.decode(case, 1.0)) for _, case, speed, sound in extra or [] if sound]
    first = fit.fit(calibration.priors(), points)
    waits = []
    for item in held:
        if item.capacity * item.case.layout.dp < item.case.demand.concurrency:
            continue  # a queue behind a full cache says nothing of prefill
        seen = predict.predict(item.case, first, item.capacity)
        prefill = seen.ttft_terms["first_prefill"] / first.constants["first_prefill"].value
        ahead = 1 + seen.running / item.case.layout.dp / 2 / item.case.demand.rounds
        counted = features.first_token(item.case, seen.running, seen.tpot_ms, prefill / ahead)
        waits.append(MeasuredTime(item.ttft_ms, counted))
    return fit.fit(first, waits)


def _running(item: Row) -> float:
    return min(float(item.case.demand.concurrency), item.capacity * item.case.layout.dp)


def fitted(held: list[Row]) -> str:
    """The file of constants that ships: fitted to all rows and the whole two-Spark table."""
    constants = trained(held, sparks()).constants
    head = "# Written by benchmarks/planner_accuracy.py --write: priors.yaml fitted to everything in benchmarks/data.\n"
    source = (
        f"source: priors.yaml, fitted to {len(held)} rows of MiniMax-M2.5 and the two-Spark table (benchmarks/data)\n"
    )
    return head + source + "values:\n" + "".join(f"  {name}: {one.value:.4g}\n" for name, one in constants.items())


def score(held: list[Row], constants: Calibration) -> dict[str, float]:
    """Mean relative errors, and the share of pairs of layouts or loads that are put in the right order."""
    seen = [predict.predict(item.case, constants, item.capacity) for item in held]
    tpot = [abs(one.tpot_ms / item.tpot_ms - 1) for one, item in zip(seen, held, strict=True)]
    ttft = [abs(one.ttft_ms / item.ttft_ms - 1) for one, item in zip(seen, held, strict=True)]
    pairs = [
        (a.tpot_ms < b.tpot_ms) == (x.tpot_ms < y.tpot_ms)
        for (a, x), (b, y) in itertools.combinations(zip(seen, held, strict=True), 2)
        if abs(x.tpot_ms / y.tpot_ms - 1) > 0.01
    ]
    inside = [one.interval.low <= item.tpot_ms <= one.interval.high for one, item in zip(seen, held, strict=True)]
    return {
        "rows": len(held),
        "tpot": statistics.mean(tpot),
        "tpot_median": statistics.median(tpot),
        "tpot_worst": max(tpot),
        "order": statistics.mean(pairs),
        "ttft": statistics.mean(ttft),
        "ttft_median": statistics.median(ttft),
        "in_interval_80": statistics.mean(inside),
    }


def sparks() -> list[tuple[str, Case, float, bool]]:
    """The two-Spark table: name, case, tokens a second, whether it was stable."""
    with (DATA / "two_sparks.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [
        (
            line["case"],
            Case(
                model=models.find(line["model"]),
                layout=parse_layout(line["layout"]),
                hardware=hardware.find("gb10"),
                demand=Demand(isl=128, osl=256, concurrency=1),
                setting=Setting(eager=line["eager"] == "1", backend=line["backend"]),
                gpus_per_host=1,
            ),
            float(line["measured_tokens_per_s"]),
            line["stable"] == "1",
        )
        for line in lines
    ]


def score_sparks() -> dict[str, dict[str, float]]:
    """Each row predicted by constants fitted to the other stable rows."""
    table = sparks()
    result = {}
    for name, case, measured, stable in table:
        others = [
            MeasuredTime(1e3 / speed, features.decode(other, 1.0))
            for other_name, other, speed, sound in table
            if sound and other_name != name
        ]
        constants = fit.fit(calibration.priors(), others)
        speed = predict.predict(case, constants).interactivity
        result[name] = {
            "measured": measured,
            "prior": round(predict.predict(case, calibration.priors()).interactivity, 2),
            "left_out": round(speed, 2),
            "error": abs(speed / measured - 1),
            "stable": float(stable),
        }
    return result


def main() -> None:
    """Print the scorecard as JSON; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="store_true", help="every row of the left-out kinds on stderr")
    parser.add_argument("--write", action="store_true", help="write the constants fitted to everything, which ship")
    options = parser.parse_args()
    start = time.process_time()
    measured = rows()
    if options.write:
        FITTED.write_text(fitted(measured), encoding="utf-8")
    kinds = sorted({item.gpu for item in measured})
    card: dict[str, object] = {
        "prior_only": score(measured, calibration.priors()),
        "fitted_on_all": score(measured, trained(measured)),
    }
    left_out = {}
    for kind in kinds:
        constants = trained([item for item in measured if item.gpu != kind])
        held = [item for item in measured if item.gpu == kind]
        left_out[kind] = score(held, constants)
        if options.rows:
            show(held, constants)
    card["left_out"] = left_out
    mean = {key: statistics.mean(part[key] for part in left_out.values()) for key in ("tpot", "order", "ttft")}
    table = score_sparks()
    worst = max(part["error"] for part in table.values() if part["stable"])
    card |= {"left_out_mean": mean, "two_sparks": table, "two_sparks_worst": worst}
    met = {key: mean[key] <= TARGETS[key] for key in ("tpot", "ttft")} | {"order": mean["order"] >= TARGETS["order"]}
    card |= {"targets": TARGETS, "met": met | {"sparks": worst <= TARGETS["sparks"]}}
    card["cpu_s"] = time.process_time() - start
    print(json.dumps(card, indent=2, default=float))
    sys.exit(0 if all([*met.values(), worst <= TARGETS["sparks"]]) else 1)


def show(held: list[Row], constants: Calibration) -> None:
    """Every row with what was predicted for it."""
    for item in held:
        seen = predict.predict(item.case, constants, item.capacity)
        demand = item.case.demand
        print(
            f"{item.gpu} {item.case.model.name} {item.case.layout.label}"
            f" {demand.isl:.0f}/{demand.osl:.0f} x{demand.concurrency}"
            f"  TPOT {seen.tpot_ms:.2f} of {item.tpot_ms:.2f} ({seen.tpot_ms / item.tpot_ms - 1:+.0%})"
            f"  TTFT {seen.ttft_ms:.0f} of {item.ttft_ms:.0f} ({seen.ttft_ms / item.ttft_ms - 1:+.0%})",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
