"""Published measurements of other models on other GPUs: nothing was fitted to them."""

import importlib.util
import statistics
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "planner_held_out.py"
    spec = importlib.util.spec_from_file_location("planner_held_out", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["planner_held_out"] = module
    spec.loader.exec_module(module)
    return module


def test_other_models_on_other_gpus(bench: ModuleType) -> None:
    table = [bench.compared(row) for row in bench.rows()]
    assert len({row["model"] for row in bench.rows()}) >= 5
    assert all(row["source"].startswith("https://") for row in bench.rows())
    assert statistics.mean(abs(row["error"]) for row in table) <= 0.13
    assert max(abs(row["error"]) for row in table) <= 0.25
    assert statistics.mean(row["inside"] for row in table) >= 0.8
