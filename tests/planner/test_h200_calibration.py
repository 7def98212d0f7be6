"""What calibrate writes from its figures of an H200 predicts no worse than the catalogue, on measured rows."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from overspan.catalog import hardware


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "h200_calibration.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_written_is_no_worse_than_the_catalogue(bench: ModuleType) -> None:
    catalogue, own = bench.score(hardware.find("h200")), bench.score(bench.written())
    assert own.tpot <= catalogue.tpot + 1e-9
    assert own.ttft <= catalogue.ttft + 1e-9
    assert catalogue.tpot < 0.11
