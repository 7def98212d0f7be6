"""Ctrl-C reaches every process of the terminal: helpers leave it to the one that started them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started within do not hear it, from their first moment; here it waits until the end."""
    # Started by the first process otherwise, and that start lets Ctrl-C through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_ctrl_c() -> None:
    """In a process that was started deaf: the next one interrupts, those after it do not."""
    signal.signal(signal.SIGINT, _first)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _first(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
