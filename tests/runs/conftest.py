from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.runs import FakeRun, fake_run


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has runs of its own."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def launch() -> Iterator[Callable[..., FakeRun]]:
    """Launch a run of the fake engine; whatever a test leaves of it is ended."""
    runs: list[FakeRun] = []

    def start(name: str = "fake", *engine: str, **fields: Any) -> FakeRun:
        runs.append(fake_run(name, *engine, **fields))
        return runs[-1]

    yield start
    for run in runs:
        run.end()
