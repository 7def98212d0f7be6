"""Processes of this machine: families, and the subreaper that keeps orphans from getting away (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import psutil

from overspan.transport.local import prctl

# Source: linux/prctl.h
_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37

# Source: proc_pid_stat(5), fields 3 and 9; PF_EXITING of linux/sched.h
_PF_EXITING = 0x4

T = TypeVar("T")


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, so that it can always find and end them."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _is_subreaper() -> bool:
    answer = ctypes.c_int()
    prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer))
    return bool(answer.value)


def _unless_gone(ask: Callable[[], T], gone: T) -> T:
    """What a process says of itself; `gone` where it is gone, or another user's."""
    try:
        return ask()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return gone


def descendants(pid: int) -> list[psutil.Process]:
    """Every living descendant of a process; zombies are left out."""
    none: list[psutil.Process] = []
    family = _unless_gone(lambda: psutil.Process(pid).children(recursive=True), none)
    return [process for process in family if is_alive(process)]


def in_session(session: int) -> list[psutil.Process]:
    """Every living process of a session (see setsid(2))."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session and is_alive(process):
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether that very process (not a later one of the same id) runs; a zombie does not."""
    return _unless_gone(lambda: process.is_running() and process.status() != psutil.STATUS_ZOMBIE, False)


def is_ending(pid: int) -> bool:
    """Whether a process is gone or on its way out, also while the kernel still takes its memory back."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)


_CLOCK_STEP_S = 2.0
"""A process's start is counted from the boot, whose wall-clock time moves when the clock is set."""


def find(pid: int, started_at: float) -> psutil.Process | None:
    """The living process of that id and start; None where it is gone, whoever has the id now."""
    process = living(pid)
    return process if process and abs(born(process) - started_at) < _CLOCK_STEP_S else None


def living(pid: int) -> psutil.Process | None:
    """The living process of that id, or None."""
    process = _unless_gone(lambda: psutil.Process(pid), None)
    return process if process is not None and is_alive(process) else None


def born(process: psutil.Process) -> float:
    """When it started, in seconds since the epoch; the end of time when it is gone."""
    return _unless_gone(process.create_time, float("inf"))


def boot_id() -> str:
    """A name of this machine's present boot (random(4)); process and session ids mean nothing after the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def arguments(process: psutil.Process) -> list[str]:
    """Its command line; empty when it is gone."""
    return _unless_gone(process.cmdline, list[str]())


def title(process: psutil.Process) -> str:
    """The title that a process gave itself, or its command line; empty when it is gone."""
    return _unless_gone(lambda: " ".join(process.cmdline()).strip() or process.name(), "")


def is_unnamed_fork(process: psutil.Process, name: str) -> bool:
    """Whether a process bears its parent's title: it was forked, and has not yet become what it will be.

    Engines fork to run a compiler or `lscpu` too: a fork that has not renamed itself yet is no worker, and ends soon.
    """

    def bears_its_parents() -> bool:
        parent = process.parent()
        return parent is not None and title(parent) == name

    return _unless_gone(bears_its_parents, True)


def resident_bytes(process: psutil.Process) -> int:
    """Its resident memory in bytes, 0 when it is gone. What processes share is counted in each."""
    return _unless_gone(lambda: int(process.memory_info().rss), 0)


def own_share_bytes(process: psutil.Process) -> int:
    """Its memory in bytes, what it shares with others divided among them (PSS); 0 when it is gone."""
    return _unless_gone(lambda: int(process.memory_full_info().pss), 0)


def send(processes: Iterable[psutil.Process], sig: int) -> None:
    """Send a signal to each that still lives."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(sig)


_TRACKER_S = 2.0
"""How long a resource tracker may go on after the last of its family: milliseconds do to remove what they left."""


def _is_tracker(process: psutil.Process) -> bool:
    """Whether it is what alone unlinks the shared memory of killed Python processes; their pipe's end ends it.

    Source: CPython 3.11 to 3.14, Lib/multiprocessing/resource_tracker.py (`ensure_running`).
    """
    return "from multiprocessing.resource_tracker import main" in title(process)


def kill_all(find: Iterable[list[psutil.Process]], timeout_s: float = 10.0) -> list[psutil.Process]:
    """Kill what `find` gives, again and again until it gives nothing: a dying family may still fork.

    Resource trackers end by themselves after all others; one that does not is killed too.

    Returns:
        What is left after `timeout_s` (processes in uninterruptible sleep).
    """
    deadline = time.monotonic() + timeout_s
    patience = 0.0
    for left in find:
        now = time.monotonic()
        others = [process for process in left if not _is_tracker(process)]
        if others or not patience:
            patience = now + _TRACKER_S
        late = now > min(deadline, patience)
        send(left if late else others, signal.SIGKILL)
        if not left or now > deadline:
            return left
        psutil.wait_procs(left, timeout=0.2)
        reap()
    return []


def reap() -> None:
    """Collect zombies that were left to this process as the subreaper, except those that subprocess waits for.

    Another process's children are all its own: `stop` called from a program takes no exit code from it.
    """
    if not _is_subreaper():
        return
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE and child.pid not in _started:
                os.waitpid(child.pid, os.WNOHANG)


_started: set[int] = set()


def mine(pid: int) -> None:
    """Say that subprocess itself waits for this child."""
    _started.add(pid)
