"""Tests with a real engine: they start vLLM on the CPU with a real model, one engine at a time."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from support.live import Live, Overspan


@pytest.fixture(scope="session")
def engine() -> engines.EngineEnv:
    try:
        return engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")


@pytest.fixture(scope="package")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of these tests apart from the user's; the cache of engines and models is the user's own."""
    folder = tmp_path_factory.mktemp("state")
    before = os.environ.get("OVERSPAN_STATE")
    os.environ["OVERSPAN_STATE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["OVERSPAN_STATE"]
    else:
        os.environ["OVERSPAN_STATE"] = before


@pytest.fixture(scope="package")
def overspan(engine: engines.EngineEnv, state: Path) -> Overspan:
    """The command, as a shell would run it."""

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "overspan", *arguments], capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"overspan {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
        return done

    return run


@pytest.fixture
def live(overspan: Overspan) -> Iterator[Callable[..., Live]]:
    runs: list[Live] = []

    def start(name: str, *settings: str) -> Live:
        runs.append(Live(overspan, name, *settings))
        return runs[-1]

    yield start
    for run in runs:
        overspan("stop", run.folder.id, "--grace", "0")
