"""One line a run, quickly: reads the last state of each and no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from overspan.schema.event import FINAL_STATES
from overspan.schema.places import runs_dir
from overspan.store.name_lock import is_held

_WINDOW_BYTES = 64 * 1024


def summaries() -> list[dict[str, Any]]:
    """Every run, newest first: `{run, name, state, at, message}`; `state` is `damaged` where the events tell none."""
    root = runs_dir()
    if not root.is_dir():
        return []
    rows = [_summary(path) for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(rows, key=lambda row: str(row["run"]).rsplit("-", 3)[1:], reverse=True)


def _summary(path: Path) -> dict[str, Any]:
    name = path.name.rsplit("-", 3)[0]
    row: dict[str, Any] = {"run": path.name, "name": name, "state": "damaged", "at": None, "message": ""}
    try:
        with (path / "events.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _WINDOW_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return {**row, "message": f"events.jsonl: {error.strerror}"}
    for line in reversed(lines):
        try:
            event = json.loads(line)
            state = event.get("state")
        except (ValueError, AttributeError):
            continue
        if state:
            row.update(state=state, at=event.get("at"), message=str(event.get("message", "")))
            break
    if row["state"] not in (*FINAL_STATES, "damaged") and not is_held(name):
        row.update(state="failed", message="its supervisor is gone without a word")
    return row
