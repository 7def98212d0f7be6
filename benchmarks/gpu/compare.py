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
from overspan.schema.workload import Demand

DATA = Path(__file__).parents[1] / "data" / "gpu"
# The recipe is for two Sparks: eager, in an image of its own. What was measured ran with graphs, in vLLM 0.26.
ROUNDS = 4  # of each user, the warm-up among them (full_size.py)
SETTINGS = ("engine_args.enforce_eager=null", "image=null")


def main(files: list[Path]) -> None:
    """Print a table for each file, and the mean errors."""
    for file in files:
        measured = json.loads(file.read_text())
        seen = measured["versions"]
        print(f"{measured['model']}: {', '.join(seen['gpus'])}; vLLM {seen['vllm']}, {seen['date']} ({file.name})")
        print(
            "layout  users         output  TPOT ms: measured predicted ratio ceiling  TTFT ms: measured predicted ratio"
        )
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
    output = str(point.get("output_tokens") or measured["output_tokens"])
    said = predicted(measured, layout, point["users"], output)
    ratios["tpot"].append(said["tpot_ms"] / tpot)
    ratios["ttft"].append(said["ttft_ms"] / ttft)
    print(
        f"{layout:6} {point['users']:6} {output:>15} {tpot:18.2f} {said['tpot_ms']:9.2f} {ratios['tpot'][-1]:6.2f} "
        f"{said['ceiling_tpot_ms']:8.2f} {ttft:18.0f} {said['ttft_ms']:9.0f} {ratios['ttft'][-1]:6.2f}"
    )


def predicted(measured: dict[str, Any], layout: str, users: int, output: str) -> dict[str, Any]:
    """What the planner says of one point; answers of one length keep the users in step."""
    bounds = [int(bound) for bound in output.removeprefix("uniform:").split("-")]
    gpus = measured["versions"]["gpus"]
    question = answer.PlanQuestion(
        name=measured["model"],
        settings=(*SETTINGS, *_sequences(measured["flags"])),
        inventory=None,
        gpu=gpus[0].split(",")[0].split()[-1].lower(),
        nodes=1,
        gpus=len(gpus),
        layout=one_layout(layout, {"tp": None, "pp": None, "dp": None, "ep": None}),
        demand=Demand(
            isl=measured["input_tokens"],
            osl=statistics.mean(bounds),
            concurrency=users,
            rounds=ROUNDS,
            in_step=len(bounds) == 1,
        ),
        slo=None,
        how_many=False,
        disaggregated=False,
        top=1,
    )
    return answer.answer(question).as_json()


def _sequences(flags: list[str]) -> list[str]:
    """The limit on sequences that was measured with, as a setting."""
    name = "--max-num-seqs="
    return [f"engine_args.max_num_seqs={flag.removeprefix(name)}" for flag in flags if flag.startswith(name)]


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(DATA.glob("full-*.json")))
