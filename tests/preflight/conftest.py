"""The scripted pair, fresh for each test."""

from pathlib import Path

import pytest

from support.two_sparks import Two


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    return Two()
