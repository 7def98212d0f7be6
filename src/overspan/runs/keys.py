"""A run's secrets: a file of mode 0600 in its folder, gone with the run's end. They never enter argv, plan or log."""

from __future__ import annotations

import json
import os
import secrets as random

from overspan.runs.folder import RunFolder, write_whole
from overspan.schema.recipe import Recipe

API_KEY = "VLLM_API_KEY"
"""vLLM takes its key from this variable. Source: vllm/envs.py."""

_FILE = "secrets.json"


def make(run: RunFolder, recipe: Recipe) -> None:
    """Write the secrets that a run needs."""
    if recipe.api_key:
        key = os.environ.get("OVERSPAN_API_KEY") or random.token_urlsafe(24)
        write_whole(run.path / _FILE, json.dumps({API_KEY: key}), mode=0o600)


def read(run: RunFolder) -> dict[str, str]:
    """The run's secrets; empty where it has none."""
    return {name: str(value) for name, value in run.note(_FILE).items()}
