"""What has served its time: ended runs, twins, synthetic weights, engine environments that an older Overspan made."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal, get_args

import psutil

from overspan.provision import engines
from overspan.schema.base import Frozen
from overspan.schema.errors import RunDamaged
from overspan.schema.places import synthetic_dir, twins_dir
from overspan.store.files import bytes_of
from overspan.store.run_folder import RunFolder, all_runs

What = Literal["runs", "twins", "synthetic", "engines"]
ALL: Final[tuple[What, ...]] = get_args(What)


class Prunable(Frozen):
    """A folder that may go. `last_used`: when a run ended, a twin or weights were last planned with, an engine made."""

    what: What
    name: str
    path: Path
    last_used: datetime
    size_bytes: int


def prunable(what: Collection[What], older_than: timedelta) -> list[Prunable]:
    """What has not been used for so long and is not in use now, the oldest first.

    A run that has not ended stays, and so does one with something left on a host that `overspan stop` could not reach.
    """
    until = datetime.now(UTC) - older_than
    found = [each for kind in what for each in _FINDERS[kind]() if each.last_used <= until]
    words = _words_in_use() if found else ""
    return sorted((each for each in found if str(each.path) not in words), key=lambda each: each.last_used)


def remove(each: Prunable) -> None:
    """Delete it.

    Raises:
        OverspanError: it is in use since.
        OSError: it cannot be deleted.
    """
    if each.what == "engines":
        engines.delete(next(engine for engine in engines.installed() if engine.path == each.path))
    else:
        shutil.rmtree(each.path)


def _runs() -> Iterator[Prunable]:
    for run in all_runs():
        if run.ended and not (last := run.last_state()).data.get("left"):
            yield Prunable(what="runs", name=run.id, path=run.path, last_used=last.at, size_bytes=bytes_of(run.path))


def _folders(what: What, home: Path) -> Iterator[Prunable]:
    for path in sorted(home.glob("[!.]*/")):
        last_used = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        yield Prunable(what=what, name=path.name, path=path, last_used=last_used, size_bytes=bytes_of(path))


def _engines() -> Iterator[Prunable]:
    for each in engines.installed():
        if not each.current:
            made = datetime.fromisoformat(each.installed_at).astimezone(UTC)
            yield Prunable(what="engines", name=each.name, path=each.path, last_used=made, size_bytes=each.size_bytes)


_FINDERS: Final[dict[What, Callable[[], Iterator[Prunable]]]] = {
    "runs": _runs,
    "twins": lambda: _folders("twins", twins_dir()),
    "synthetic": lambda: _folders("synthetic", synthetic_dir()),
    "engines": _engines,
}


def _words_in_use() -> str:
    """Command lines on this machine (a guardian's has its run's folder), and the models of runs that go on anywhere."""
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return "\n".join([*commands, *(_model_of(run) for run in all_runs() if not run.ended)])


def _model_of(run: RunFolder) -> str:
    try:
        plan = run.plan()
    except RunDamaged:
        return ""
    return f"{plan.model_path} {plan.recipe.model}"
