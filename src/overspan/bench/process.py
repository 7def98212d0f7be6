"""What a process of the client may do: hear Ctrl-C, which reaches every one of the terminal, and open connections."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from overspan.schema.errors import InputError

_SPARE_FILES: Final = 64


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started within do not hear it, from their first moment; here it waits until the end."""
    # Started by the first process otherwise, and that start lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def helper(body: Callable[..., None], *arguments: Any) -> tuple[SpawnProcess, Connection]:
    """Start a process of this client that does not hear Ctrl-C, with a pipe to it.

    Args:
        body: what it runs: `body(pipe, *arguments)`.
        arguments: can be pickled.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=body, args=(theirs, *arguments), daemon=True)
    with _deaf_to_ctrl_c():
        process.start()
    theirs.close()
    return process, ours


def hear_ctrl_c() -> None:
    """In a process that was started deaf: the next one interrupts, those after it do not."""
    signal.signal(signal.SIGINT, _first)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _first(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def most_connections() -> int:
    """How many connections one process can have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard - _SPARE_FILES


def raise_open_files(connections: int) -> None:
    """Raise this process's limit of open files to what the connections need.

    Raises:
        InputError: the hard limit is lower.
    """
    needed = connections + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fewer = f"lower --concurrency to {hard - _SPARE_FILES} or " if hard > _SPARE_FILES else ""
        raise InputError(
            f"{connections} connections need {needed} open files, and this shell's hard limit is {hard}",
            next=f"{fewer}raise the limit: ulimit -Hn {needed}",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
