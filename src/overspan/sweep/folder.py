"""A sweep's folder: its definition, a journal of what is going on, and one line for each point that ended.

Lines are only ever added, each in one write that is on disk before anything goes on. So a crash loses at most the
point that was being measured, and whoever comes next sees exactly what is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from overspan.schema.errors import InputError, RunDamaged
from overspan.schema.places import state_dir
from overspan.schema.point import Point, PointResult, PointState
from overspan.schema.sweep import Sweep
from overspan.schema.yamlio import dump
from overspan.store import jsonl, locks
from overspan.store.dated_folder import DatedFolder, pick
from overspan.store.files import problem_of, write_whole

RESULTS = "results.jsonl"
JOURNAL = "journal.jsonl"
POINTS = "points.jsonl"


def sweeps_dir() -> Path:
    """One folder a sweep that was run."""
    return state_dir() / "sweeps"


@dataclass(frozen=True)
class MeasuredSweep:
    """Points with what came of them. A point without a result of its own recipe is missing.

    Args:
        name: of the running.
        points: every planned point.
        results: the last of each point that ended, by its id.
    """

    name: str
    points: Sequence[Point]
    results: Mapping[str, PointResult]

    @property
    def ended(self) -> list[PointResult]:
        """Results in the order of the points."""
        return [self.results[point.id] for point in self.points if point.id in self.results]

    def state(self, point: Point) -> PointState:
        """`ok`, `failed` or `missing`."""
        return self.results[point.id].state if point.id in self.results else "missing"


class SweepFolder(DatedFolder):
    """One running of a sweep; its name is the sweep's."""

    KIND = "sweep"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock: int | None = None

    @classmethod
    def create(cls, sweep: Sweep) -> SweepFolder:
        """Make the folder of a new running."""
        return cls.make(sweeps_dir(), sweep.name)

    def requests(self, point: Point) -> Path:
        """The folder of a point's single requests; made when asked for."""
        path = self.path / "points" / f"{point.id.replace('/', '--')}--{point.recipe_hash}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def open(self, sweep: Sweep, points: list[Point]) -> None:
        """Take the folder for this process, and write what is planned.

        Raises:
            InputError: another process is running this sweep.
        """
        self._lock = locks.open_lock(self.path / ".lock")
        if not locks.try_lock(self._lock):
            self.close()
            raise InputError(
                f"sweep {self.id} is being run by another process",
                next="wait until it ends, or measure in a new folder: --fresh",
            )
        write_whole(self.path / "sweep.yaml", dump(sweep))
        write_whole(self.path / POINTS, "".join(f"{point.model_dump_json()}\n" for point in points))

    def close(self) -> None:
        """Let go of the folder. Twice is fine."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def note(self, event: str, **data: Any) -> None:
        """Add a line to the journal."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.append_line(JOURNAL, json.dumps({"at": at, "event": event, **data}), sync=True)

    def journal(self) -> list[dict[str, Any]]:
        """Every line of the journal; one that is half-written is left out."""
        return [json.loads(line) for line in jsonl.lines(self.path / JOURNAL)]

    def add(self, result: PointResult) -> None:
        """Add how a point ended."""
        self.append_line(RESULTS, result.model_dump_json(), sync=True)

    def results(self) -> list[PointResult]:
        """Every result, oldest first.

        Raises:
            RunDamaged: a line in the middle is none.
        """
        return read_results(self.path / RESULTS)

    def points(self) -> list[Point]:
        """What was planned when the sweep was last run."""
        return [Point.model_validate_json(line) for line in jsonl.lines(self.path / POINTS)]

    def measured(self, points: Sequence[Point] | None = None) -> MeasuredSweep:
        """What of these points is measured; without any, of those that were planned when the sweep was last run."""
        latest = {(result.point.id, result.point.recipe_hash): result for result in self.results()}
        planned = self.points() if points is None else points
        found = {point.id: latest.get((point.id, point.recipe_hash)) for point in planned}
        return MeasuredSweep(self.id, planned, {id: result for id, result in found.items() if result is not None})


def read_results(path: Path) -> list[PointResult]:
    """The results in a file of JSON lines.

    Raises:
        RunDamaged: a line is no result; names it.
    """
    found = []
    for number, line in enumerate(jsonl.lines(path), 1):
        try:
            found.append(PointResult.model_validate_json(line))
        except ValidationError as error:
            what = f"{path}, line {number} is no result: {problem_of(error)}"
            raise RunDamaged(what, quote=line[:200]) from None
    return found


def all_sweeps() -> list[SweepFolder]:
    """Every sweep that was run on this machine, newest first."""
    return SweepFolder.all_in(sweeps_dir())


def newest(name: str, points: Sequence[Point] = ()) -> SweepFolder | None:
    """The newest running of a sweep; where points are given, of those on the machines that they are planned on."""
    machines = {point.id: point.machines for point in points}
    return next(
        (
            folder
            for folder in all_sweeps()
            if folder.name == name
            and all(machines.get(point.id, point.machines) == point.machines for point in folder.points())
        ),
        None,
    )


def open_sweep(which: str) -> SweepFolder:
    """A sweep's folder by its id, its sweep's name (the newest), or its path.

    Raises:
        UnknownName: there is none; tells the nearest.
    """
    if os.sep in which and (Path(which) / RESULTS).is_file():
        return SweepFolder(Path(which).resolve())
    return pick(SweepFolder, all_sweeps(), which)
