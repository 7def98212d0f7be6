"""A lock between processes of this machine: it ends with its holder, however that ends, so a crash blocks nobody."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Say nothing."""


@contextmanager
def held(path: Path, *, doing: str, say: Say) -> Iterator[None]:
    """Hold the lock at `path`; when another process has it, tell for whom we wait, and wait.

    Children do not inherit it: what an orphan still writes must be harmless by its place, not by this lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 400, 0).decode(errors="replace").strip() or "another overspan"
            say(f"waiting for {holder}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}, which is {doing}".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
