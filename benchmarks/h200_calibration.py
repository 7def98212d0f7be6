"""What `overspan calibrate` writes for an H200, beside the catalogue, on what five models took there.

    python benchmarks/h200_calibration.py

Rows: benchmarks/data/gpu/h200_first_contact.csv (measured on one H200 by Overspan, 2026-11-30), and the figures that
calibrate's own script took on the same card. No constant was fitted to them.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path
from typing import Any, Final, NamedTuple

from overspan.catalog import accounting, hardware, models
from overspan.inventory import measure
from overspan.planner.features import Case, Setting
from overspan.planner.predict import predict
from overspan.schema.hardware import HardwareSpec
from overspan.schema.inventory import Host
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.workload import Demand

DATA: Final = Path(__file__).parent / "data" / "gpu" / "h200_first_contact.csv"
ISL: Final = 1024
OSL: Final = 128
SECONDS: Final = 12  # of each point
FIGURES: Final[dict[str, Any]] = {
    "with": "torch 2.11.0+cu130", "device": "cuda", "gpu": "NVIDIA H200", "capability": "9.0", "gpus": 1,
    "memory_bytes": 143771 * 2**20, "copy_bytes_per_s": 4.17e12, "rates": {"bf16": 781e12}, "launch_s": 6.4e-6,
    "missing": {"all_reduce": "one GPU alone: there is nothing to reduce with"},
}  # fmt: skip
"""Measured by five_numbers.py on that card."""
# https://huggingface.co/meta-llama/Llama-3.1-8B/blob/main/config.json
_LLAMA: Final = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    "vocab_size": 128256, "tie_word_embeddings": False, "max_position_embeddings": 131072,
}  # fmt: skip


class Score(NamedTuple):
    """Mean errors over all rows, as shares."""

    tpot: float
    ttft: float


def written() -> HardwareSpec:
    """The hardware that calibrate writes from its figures."""
    host = Host(name="localhost", cores=16, memory_bytes=126 * 2**30)
    return measure.spec_of(FIGURES, host, "2026-11-30")


def score(spec: HardwareSpec) -> Score:
    """How far predictions with some hardware are off."""
    found = [_errors(row, spec) for row in _rows()]
    return Score(statistics.mean(tpot for tpot, _ in found), statistics.mean(ttft for _, ttft in found))


def _rows() -> list[dict[str, str]]:
    with DATA.open() as file:
        return list(csv.DictReader(file))


def _model(name: str) -> ModelSpec:
    return accounting.count(name, _LLAMA) if name == "llama-3.1-8b" else models.find(name)


def _errors(row: dict[str, str], spec: HardwareSpec) -> tuple[float, float]:
    users = int(row["users"])
    rounds = max(1.0, float(row["output_tokens_per_s"]) * SECONDS / OSL / users)
    demand = Demand(isl=ISL, osl=OSL, concurrency=users, rounds=rounds, in_step=row["drawn"] == "0")
    case = Case(_model(row["model"]), Layout(tp=1), spec, demand, Setting(backend=row["backend"]))
    seen = predict(case, capacity=float(row["capacity"] or math.inf))
    return abs(seen.tpot_ms / float(row["tpot_ms"]) - 1), abs(seen.ttft_ms / float(row["ttft_ms"]) - 1)


def main() -> None:
    """Print both scores as JSON."""
    specs = {"catalogue": hardware.find("h200"), "calibrate": written()}
    print(json.dumps({name: score(spec)._asdict() for name, spec in specs.items()}, indent=1))


if __name__ == "__main__":
    main()
