"""What was measured on GPUs beside what `overspan predict` says, and the ceiling; nothing is fitted to these rows.

python compare.py [FULL.json]
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from overspan.planner import answer
from overspan.schema.layout import one_layout
from overspan.schema.prediction import Demand

DATA = Path(__file__).parents[1] / "data" / "gpu"
# The recipe is for two Sparks: eager, in an image of its own. What was measured ran with graphs, in vLLM 0.26.
SETTINGS = ("engine_args.enforce_eager=null", "image=null")


def main(files: list[Path]) -> None:
    """Print a table for each file, and the mean errors."""
    for file in files:
        measured = json.loads(file.read_text())
        seen = measured["versions"]
        print(f"{measured['model']}: {', '.join(seen['gpus'])}; vLLM {seen['vllm']}, {seen['date']} ({file.name})")
        print("layout  users   TPOT ms: measured predicted  ratio  ceiling   TTFT ms: measured predicted  ratio")
        ratios: dict[str, list[float]] = {"tpot": [], "ttft": []}
        for found in measured["layouts"]:
            for point in found["points"]:
                _row(measured, found["layout"], point, ratios)
        for name, held in ratios.items():
            error = statistics.mean(abs(ratio - 1) for ratio in held)
            print(f"{name.upper()}: mean error {error:.1%}, largest {max(abs(ratio - 1) for ratio in held):.1%}")


def _row(measured: dict[str, Any], layout: str, point: dict[str, Any], ratios: dict[str, list[float]]) -> None:
    result = point["result"][0]
    tpot, ttft = result["tpot_ms"]["mean"], result["ttft_ms"]["mean"]
    said = predicted(measured, layout, point["users"])
    ratios["tpot"].append(said["tpot_ms"] / tpot)
    ratios["ttft"].append(said["ttft_ms"] / ttft)
    print(
        f"{layout:6} {point['users']:6} {tpot:18.2f} {said['tpot_ms']:9.2f} {ratios['tpot'][-1]:6.2f} "
        f"{said['ceiling_tpot_ms']:8.2f} {ttft:18.0f} {said['ttft_ms']:9.0f} {ratios['ttft'][-1]:6.2f}"
    )


def predicted(measured: dict[str, Any], layout: str, users: int) -> dict[str, Any]:
    """What the planner says of one point."""
    gpus = measured["versions"]["gpus"]
    question = answer.Question(
        name=measured["model"],
        settings=SETTINGS,
        inventory=None,
        gpu=gpus[0].split(",")[0].split()[-1].lower(),
        nodes=1,
        gpus=len(gpus),
        layout=one_layout(layout, {"tp": None, "pp": None, "dp": None, "ep": None}),
        demand=Demand(isl=measured["input_tokens"], osl=measured["output_tokens"], concurrency=users),
        slo=None,
        how_many=False,
        disaggregated=False,
        top=1,
    )
    return answer.answer(question)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(DATA.glob("full-*.json")))
