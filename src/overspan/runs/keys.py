"""A run's secrets: a file of mode 0600 in its folder, gone with the run's end. They never enter argv, plan or log."""

from __future__ import annotations

import json
import os
import re
import secrets as random

from overspan.runs.folder import RunFolder, write_whole
from overspan.schema.errors import InputError
from overspan.schema.recipe import Recipe

API_KEY = "VLLM_API_KEY"
"""vLLM takes its key from this variable. Source: vllm/envs.py."""

_GIVEN = "OVERSPAN_API_KEY"
_FILE = "secrets.json"


def given() -> str | None:
    """The key in OVERSPAN_API_KEY, if there is one.

    Raises:
        InputError: no header can carry it; it is not quoted.
    """
    key = os.environ.get(_GIVEN) or None
    if key is not None and not re.fullmatch("[!-~]+", key):
        raise InputError(f"{_GIVEN} is no key: a header carries visible ASCII alone", next=f"set {_GIVEN} anew")
    return key


def make(run: RunFolder, recipe: Recipe) -> None:
    """Write the secrets that a run needs.

    Raises:
        InputError: the key that was given cannot be one.
    """
    if recipe.api_key:
        write_whole(run.path / _FILE, json.dumps({API_KEY: given() or random.token_urlsafe(24)}), mode=0o600)


def read(run: RunFolder) -> dict[str, str]:
    """The run's secrets; empty where it has none."""
    return {name: str(value) for name, value in run.note(_FILE).items()}


def file_of(run: RunFolder) -> str | None:
    """Where the run's secrets are, for their owner to read; None where it has none."""
    path = run.path / _FILE
    return str(path) if path.exists() else None


def forget(run: RunFolder) -> None:
    """Remove the run's secrets. Twice is fine."""
    (run.path / _FILE).unlink(missing_ok=True)
