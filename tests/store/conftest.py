from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has runs of its own."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    return tmp_path / "state"
