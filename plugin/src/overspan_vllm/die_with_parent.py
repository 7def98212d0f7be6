"""No process of the engine outlives its parent: `kill -9` of the API server orphans vLLM's engine core and workers.

The kernel kills a child when the *thread* that started it ends. vLLM starts its processes in main threads, which end
with their process. A child of any other thread, or of a server that forks for others, waits for the end of the whole
process instead: none dies by mistake.
The first process of the engine has its own parent to see to that. On by a switch, since a program of one's own may
start an engine that is to outlive it. The first process writes its own number into the switch, so that every process
below it knows that it is one: a spawned child imports vLLM, and with it this, before multiprocessing knows its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import select
import signal
import sys
import threading
from functools import cache
from pathlib import Path

from overspan_vllm.mend import say

SWITCH = "OVERSPAN_DIE_WITH_PARENT"
_PR_SET_PDEATHSIG = 1
"""Source: linux/prctl.h."""

_forking: list[tuple[int, bool]] = []
"""The process that forked last, and whether its main thread did."""


_followed: set[int] = set()
"""The processes whose end is the end of this one."""


def arrange() -> None:
    """See to it in this process, if it is a child of the engine's, and in every one that it forks.

    To be called again later: a child that a server forked learns who asked for it only after its imports.
    """
    first = os.environ.get(SWITCH)
    if not first or not sys.platform.startswith("linux"):
        return
    _heed_forks()
    parent = multiprocessing.parent_process()
    if parent is not None:
        _follow(parent.pid)
        if not parent.is_alive():
            # It died before the kernel was asked.
            _end()
    elif first == "1":
        os.environ[SWITCH] = str(os.getpid())
    elif first != str(os.getpid()):
        _follow(os.getppid())


@cache
def _heed_forks() -> None:
    os.register_at_fork(before=_note_forker, after_in_child=_begin)
    say("processes of this engine end with their parents")


def _begin() -> None:
    """In a child that was just forked: what its parent followed is not its own concern."""
    _followed.clear()
    _follow(*_forking[0])


def _note_forker() -> None:
    _forking[:] = [(os.getpid(), threading.current_thread() is threading.main_thread())]


def _is_of_main_thread(parent: int) -> bool:
    """Whether the main thread of that process started this one. Source: proc_pid_task(5), `children`."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii")
    except OSError:
        return False
    return str(os.getpid()) in children.split()


def _follow(parent: int, of_main_thread: bool | None = None) -> None:
    """End when the parent ends. `of_main_thread`: which of its threads started this process, where that is known."""
    if parent in _followed:
        return
    _followed.add(parent)
    if not (_is_of_main_thread(parent) if of_main_thread is None else of_main_thread):
        _watch(parent)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        _end()


def _watch(parent: int) -> None:
    try:
        descriptor = os.pidfd_open(parent)
    except ProcessLookupError:
        _end()
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)

    def wait() -> None:
        ended.poll()
        _end()

    threading.Thread(target=wait, name="overspan-parent", daemon=True).start()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
