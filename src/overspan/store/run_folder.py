"""A run's folder: every stage of a run is a file here, written whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from overspan.schema.errors import InputError, RunDamaged
from overspan.schema.event import FINAL_STATES, Event, State
from overspan.schema.extensions import RECORDED
from overspan.schema.places import runs_dir
from overspan.schema.reading import read_bytes
from overspan.store import jsonl
from overspan.store.dated_folder import DatedFolder, pick
from overspan.store.files import problem_of, write_whole
from overspan.store.locks import is_held

# The types of documents are imported by who reads one: `list`, `logs` and `stop` do without most of them.
if TYPE_CHECKING:
    from overspan.schema.finding import Finding
    from overspan.schema.plan import Plan
    from overspan.schema.process import ProcessSpec
    from overspan.schema.workload import BenchResult

T = TypeVar("T")

_EVENTS = "events.jsonl"

SUPERVISOR: Final = "supervisor.json"
"""Of a run that was launched: its supervisor, guardian and session, with the boot in which these numbers mean it."""


class RunFolder(DatedFolder):
    """One run on disk. Its name is the one that `up` gave it: a recipe's, unless `--name` said otherwise."""

    KIND = "run"

    @classmethod
    def create(cls, name: str) -> RunFolder:
        """Make the folder of a new run."""
        run = cls.make(runs_dir(), name)
        run.logs.mkdir()
        return run

    @property
    def logs(self) -> Path:
        """The folder of logs, one file a process."""
        return self.path / "logs"

    def log(self, process: str) -> Path:
        """The log of one process."""
        return self.logs / f"{process}.log"

    # documents -------------------------------------------------------------------------------------------------------

    def _read(self, file: str, adapter: TypeAdapter[T]) -> T:
        path = self.path / file
        try:
            # Engines and launchers of other packages may be gone by now: the run is read all the same.
            return adapter.validate_json(read_bytes(path), context=RECORDED)
        except InputError as error:
            raise RunDamaged(f"run {self.id}: {error.what}", next=f"ls -l {self.path}") from None
        except FileNotFoundError:
            raise RunDamaged(f"run {self.id} has no {file}", next=f"ls {self.path}") from None
        except OSError as error:
            raise RunDamaged(f"run {self.id}: {file} cannot be read: {error}", next=f"ls -l {self.path}") from None
        except ValidationError as error:
            what = f"run {self.id}: {file} is damaged: {problem_of(error)}"
            next = f"look at {path}; overspan stop {self.id} ends the run all the same"
            raise RunDamaged(what, next=next) from None

    def plan(self) -> Plan:
        """plan.json."""
        from overspan.schema.plan import Plan

        return self._read("plan.json", TypeAdapter(Plan))

    def processes(self) -> list[ProcessSpec]:
        """processes.json."""
        from overspan.schema.process import ProcessSpec

        return self._read("processes.json", TypeAdapter(list[ProcessSpec]))

    def findings(self) -> list[Finding]:
        """verify.json; empty before verification."""
        from overspan.schema.finding import Finding

        exists = (self.path / "verify.json").exists()
        return self._read("verify.json", TypeAdapter(list[Finding])) if exists else []

    def bench(self) -> BenchResult | None:
        """bench.json, or None before a bench."""
        from overspan.schema.workload import BenchResult

        return self._read("bench.json", TypeAdapter(BenchResult)) if (self.path / "bench.json").exists() else None

    def requests(self) -> dict[int | str, Path]:
        """The files of the last bench's requests, by level; files of earlier benches may lie beside them."""
        bench = self.bench()
        levels = map(bench.level, bench.points) if bench else ()
        files = {level: self.path / f"requests-{level}.jsonl" for level in levels}
        return {level: path for level, path in files.items() if path.exists()}

    def note(self, file: str) -> dict[str, Any]:
        """A small JSON object of the run (supervisor.json), or an empty one."""
        return self._read(file, TypeAdapter(dict[str, Any])) if (self.path / file).exists() else {}

    def write(self, file: str, document: BaseModel | list[Any]) -> None:
        """Write one of the run's JSON documents, whole or not at all."""
        items = TypeAdapter(type(document)).dump_json(document, indent=2)
        write_whole(self.path / file, items.decode() + "\n")

    def record(self, file: str, data: dict[str, Any]) -> None:
        """Write a small JSON object of the run, whole or not at all."""
        write_whole(self.path / file, json.dumps(data, indent=2) + "\n")

    # events ----------------------------------------------------------------------------------------------------------

    def append(
        self,
        message: str,
        *,
        state: State | None = None,
        process: str | None = None,
        host: str | None = None,
        **data: Any,
    ) -> Event:
        """Add an event; several processes may add at once.

        Raises:
            OverspanError: it cannot be written, e.g. the disk is full.
        """
        event = Event(at=datetime.now(UTC), message=message, state=state, process=process, host=host, data=data)
        self.append_line(_EVENTS, event.model_dump_json(exclude_defaults=True))
        return event

    def events(self) -> list[Event]:
        """Every event, oldest first. A damaged line is an event that tells it, at the time of the one before.

        Raises:
            RunDamaged: they cannot be read.
        """
        events: list[Event] = []
        try:
            lines = jsonl.lines(self.path / _EVENTS)
        except (OSError, InputError) as error:
            why = error.strerror if isinstance(error, OSError) else error.what
            what = f"run {self.id}: {_EVENTS} cannot be read: {why}"
            raise RunDamaged(what, next=f"ls -l {self.path}") from None
        for number, line in enumerate(lines, 1):
            try:
                events.append(Event.model_validate_json(line))
            except ValidationError:
                at = events[-1].at if events else datetime.fromtimestamp(0, UTC)
                message = f"{_EVENTS}, line {number} is damaged"
                events.append(Event(at=at, message=message, data={"lines": [line[:200]]}))
        return events

    def _last(self) -> tuple[State, Event] | None:
        """The state that the run entered last, with its event. Damaged lines hide nothing but themselves; a file that
        cannot be read tells none."""
        with suppress(OSError, InputError):
            for line in jsonl.backwards(self.path / _EVENTS):
                try:
                    event = Event.model_validate_json(line)
                except ValidationError:
                    continue
                if event.state is not None:
                    return event.state, event
        return None

    def last_state(self) -> Event:
        """The event of the state that the run entered last.

        Raises:
            RunDamaged: no event tells a state.
        """
        if (last := self._last()) is None:
            raise RunDamaged(f"run {self.id}: {_EVENTS} tells no state", next=f"ls -l {self.path}")
        return last[1]

    def standing(self) -> Event:
        """Its last state; where nobody owns a run that has not ended, a failure that tells so.

        Raises:
            RunDamaged: no event tells a state, and nobody owns the run.
        """
        last = self._last()
        if last is not None and last[0] in FINAL_STATES:
            return last[1]
        owned, pid = is_held(self.name), None
        with suppress(RunDamaged):
            pid = self.note(SUPERVISOR).get("pid")
        who = f"the supervisor (pid {pid})" if pid else "the supervisor"
        if last is None and owned:
            message = f"{who} is alive, but {_EVENTS} tells no state"
            return Event(at=datetime.now(UTC), message=message, state="launching")
        event = self.last_state()
        if owned:
            return event
        message = f"{who} died without recording why; last event {event.at.astimezone():%H:%M:%S}"
        return event.with_(state="failed", message=message)

    def state(self) -> State:
        """The state that the run entered last.

        Raises:
            RunDamaged: no event tells a state.
        """
        return self.last_state().state or "planned"

    @property
    def ended(self) -> bool:
        """Whether the run's events tell that it is over; where they tell no state, it is not known to be."""
        last = self._last()
        return last is not None and last[0] in FINAL_STATES


def all_runs() -> list[RunFolder]:
    """Every run on this machine, newest first."""
    return RunFolder.all_in(runs_dir())


def open_run(which: str | None = None) -> RunFolder:
    """Find a run by id, by name (its newest), by folder, or the newest of all.

    Raises:
        UnknownName: there is no such run; tells the nearest.
    """
    runs = all_runs()
    if which is None:
        if not runs:
            raise InputError("there is no run yet", next="overspan up smollm2-135m")
        return next((run for run in runs if _is_active(run)), runs[0])
    if "://" in which:  # it may hold a key, so it is not repeated
        raise InputError("a run is named by its id, its name or its folder; a URL is none", next="--base-url URL")
    if os.sep in which and Path(which).is_dir():
        return RunFolder(Path(which).resolve())
    return pick(RunFolder, runs, which, next="overspan list")


def _is_active(run: RunFolder) -> bool:
    try:
        return run.state() not in FINAL_STATES
    except RunDamaged:
        return False


def summaries() -> list[dict[str, Any]]:
    """Every run, newest first: `{run, name, state, at, message}`; `state` is `damaged` where the events tell none."""
    return [_summary(run) for run in all_runs()]


def _summary(run: RunFolder) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.id, "name": run.name, "state": "damaged", "at": None, "message": ""}
    try:
        return row | run.standing().model_dump(mode="json", include={"state", "at", "message"})
    except RunDamaged as error:
        return row | {"message": error.what}
