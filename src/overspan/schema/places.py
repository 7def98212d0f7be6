"""Where Overspan keeps things: caches can be deleted at any time, runs are the user's."""

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Engines and prepared models. `OVERSPAN_CACHE` moves it."""
    return _place("OVERSPAN_CACHE") or platformdirs.user_cache_path("overspan")


def state_dir() -> Path:
    """Runs and their locks. `OVERSPAN_STATE` moves it."""
    return _place("OVERSPAN_STATE") or platformdirs.user_state_path("overspan")


def runs_dir() -> Path:
    """One folder a run."""
    return state_dir() / "runs"


def twins_dir() -> Path:
    """One folder a twin; its time of change is that of its last use."""
    return cache_dir() / "twins"


def synthetic_dir() -> Path:
    """One folder a model whose weights are drawn; its time of change is that of its last use."""
    return cache_dir() / "synthetic"


def _place(variable: str) -> Path | None:
    given = os.environ.get(variable)
    return Path(given).expanduser().absolute() if given else None
