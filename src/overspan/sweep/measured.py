"""The single requests of a run or of a sweep, point by point."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overspan.schema.errors import UnknownName
from overspan.store.run_folder import open_run
from overspan.sweep.compare import read_requests
from overspan.sweep.folder import SweepFolder, all_sweeps, open_sweep


@dataclass(frozen=True)
class Measured:
    """What was measured: the requests that were answered at each point, and how many were not where some were not."""

    name: str
    points: dict[str, list[dict[str, Any]]]
    failed: dict[str, int]


def requests_of(which: str) -> Measured:
    """The requests of a run or a sweep, by id, name or path; a sweep comes first.

    Raises:
        UnknownName: neither is there.
        RunDamaged: a file of requests is damaged.
    """
    try:
        folder = open_sweep(which)
    except UnknownName:
        return _of_run(which)
    return _measured(folder.id, {name: path for name, path in _of_sweep(folder).items() if path.exists()})


def _of_run(which: str) -> Measured:
    try:
        run = open_run(which)
    except UnknownName as error:
        error.next = f"overspan list; sweeps: {', '.join(folder.id for folder in all_sweeps()[:5]) or 'none'}"
        raise
    return _measured(run.id, {str(level): path for level, path in run.requests().items()})


def _of_sweep(folder: SweepFolder) -> dict[str, Path]:
    """Files of the points that are ok: numbers of others are not compared."""
    ok = [result.point for result in folder.current() if result.state == "ok"]
    return {point.id: folder.requests(point) / f"requests-{point.concurrency}.jsonl" for point in ok}


def _measured(name: str, files: dict[str, Path]) -> Measured:
    read = {point: _read(path) for point, path in files.items()}
    points = {point: answered for point, (answered, _) in read.items()}
    return Measured(name, points, {point: failed for point, (_, failed) in read.items() if failed})


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    with path.open(encoding="utf-8", errors="replace") as lines:
        return read_requests(lines, str(path))
