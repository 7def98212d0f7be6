"""`stop`: ends a run from any shell, also after a crash of whatever launched or watched it. Twice is fine."""

from __future__ import annotations

import signal
import time
from itertools import repeat
from typing import NamedTuple

import psutil

from overspan.launchers import proc
from overspan.runs import guardian
from overspan.runs.guardian import end_elsewhere
from overspan.schema.defaults import DRAIN_TIMEOUT_S
from overspan.schema.errors import HostUnreachable, OverspanError, RunDamaged
from overspan.schema.units import count
from overspan.store import run_secrets, run_temporary
from overspan.store.locks import is_held
from overspan.store.run_folder import SUPERVISOR, RunFolder

_SETTLE_S = 15.0
"""Beyond the drain: time for the engine to be killed and for the last event to be written."""

_LAUNCH_S = 60.0
"""The guardian starts before the supervisor, whose start is on record, by less than this."""


def stop(run: RunFolder, grace_s: float | None = None) -> bool:
    """End a run and everything that belongs to it. It needs no file of the run to be whole.

    Args:
        run: which.
        grace_s: how long streams in flight may go on; the recipe's own when None.

    Returns:
        Whether it was running; False when it had ended before.

    Raises:
        OverspanError: something does not end; names it.
    """
    was_running = not run.ended
    lost = was_running and not is_held(run.name)
    owner = _owner(run)
    if was_running and owner is not None and (process := proc.find(owner.pid, owner.started_at)) is not None:
        proc.send([process], signal.SIGTERM)
        _wait_for_end(process, _drain_s(run) + _SETTLE_S if grace_s is None else grace_s + 1.0)
    if owner is not None and owner.boot == proc.boot_id():
        _sweep(run, owner)
    run_secrets.forget(run)
    run_temporary.forget(run)
    if not run.ended:
        left = end_elsewhere(run)
        why = "the supervisor died without recording why" if lost else "stopped"
        run.append(f"{why}: what was left was ended by `stop`", state="stopped", left=left)
    if run.last_state().data.get("left") and (left := end_elsewhere(run)):  # tried once more
        how = "is stopped" if was_running else "has ended"
        raise HostUnreachable(f"run {run.id} {how}, but: {'; '.join(left)}", next=f"overspan stop {run.id}")
    return was_running


def _drain_s(run: RunFolder) -> float:
    try:
        return run.plan().recipe.drain_timeout_s
    except OverspanError:  # it is damaged, or names what cannot be imported any more
        return DRAIN_TIMEOUT_S


class _Owner(NamedTuple):
    """Who ends the run when it gets SIGTERM, and the session of all that belongs to it."""

    pid: int
    started_at: float
    session: int
    boot: str


def _owner(run: RunFolder) -> _Owner | None:
    """The run's supervisor by its own record, waiting a moment for one that is just being started; where there is no
    whole record, the guardian, which passes the signal on."""
    deadline = time.monotonic() + 5.0
    while (owner := _recorded(run)) is None and is_held(run.name) and time.monotonic() < deadline:
        time.sleep(0.05)
    if owner is None and (process := guardian.find(run)) is not None:
        return _Owner(process.pid, proc.born(process), process.pid, proc.boot_id())
    return owner


def _recorded(run: RunFolder) -> _Owner | None:
    try:
        note = run.note(SUPERVISOR)
        return _Owner(int(note["pid"]), float(note["started_at"]), int(note["session"]), str(note["boot"]))
    except (RunDamaged, KeyError, TypeError, ValueError):
        return None


def _wait_for_end(process: psutil.Process, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and proc.is_alive(process):
        time.sleep(0.05)


def _sweep(run: RunFolder, owner: _Owner) -> None:
    """Kill what is left of the run's session and of its families, and nothing else: a session id can be given to others
    later. The ssh that holds a tunnel open is a child of the supervisor in a session of its own."""
    first = owner.started_at - _LAUNCH_S
    last = run.last_state().at.timestamp() if run.ended else time.time()

    def of_session() -> list[psutil.Process]:
        return [process for process in proc.in_session(owner.session) if first <= proc.born(process) <= last]

    families = {child for process in of_session() for child in proc.descendants(process.pid)}

    def left() -> list[psutil.Process]:
        return [*of_session(), *filter(proc.is_alive, families)]

    still = proc.kill_all(left() for _ in repeat(None))
    if still:
        pids = ",".join(str(process.pid) for process in still)
        what = f"run {run.id}: {count(len(still), 'process')} stayed after SIGKILL"
        raise OverspanError(what, next=f"ps -fp {pids}")
