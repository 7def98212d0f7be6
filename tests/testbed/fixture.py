"""The bed as pytest fixtures: one bed a session, clean hosts for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspan.schema import places
from testbed.bed import Bed, missing


@pytest.fixture(scope="session")
def session_bed() -> Iterator[Bed]:
    """Two hosts for the whole session; they see this machine's engines and models, read-only."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    shared = [places.cache_dir(), *map(Path, filter(None, [os.environ.get("OVERSPAN_TEST_ENGINE")]))]
    with Bed(shared=[path for path in shared if path.is_dir()]) as bed:
        yield bed


@pytest.fixture
def bed(session_bed: Bed) -> Iterator[Bed]:
    """Two hosts with nothing on them. The test fails when it leaves anything behind."""
    yield session_bed
    left = session_bed.orphans()
    session_bed.reset()
    assert left == []
