"""Locks between processes of this machine. Each is an flock: it ends with its holders, however they end, so a crash
never leaves anything locked."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overspan.schema.errors import InputError, RunExists
from overspan.schema.places import runs_dir
from overspan.store.files import shared_as

Say = Callable[[str], None]
"""Told, in a sentence, what is being done."""

_LOOK_S = 0.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""It becomes a part of paths and of containers' names (Docker: [a-zA-Z0-9][a-zA-Z0-9_.-]+)."""


def quiet(_: str) -> None:
    """Say nothing."""


def open_lock(path: Path) -> int:
    """A descriptor to lock by; closing it lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # another account made it: it can be locked all the same


def try_lock(descriptor: int) -> bool:
    """Take the lock, unless another process has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


@contextmanager
def held(path: Path, *, doing: str, say: Say) -> Iterator[None]:
    """Hold the lock at `path`; when another process has it, tell for whom we wait, and wait.

    Children do not inherit it: what an orphan still writes must be harmless by its place, not by this lock.
    """
    with shared_as(path):
        descriptor = open_lock(path)
        try:
            if not try_lock(descriptor):
                holder = os.pread(descriptor, 400, 0).decode(errors="replace").strip() or "another overspan"
                say(f"waiting for {holder}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(OSError):  # another account's, or a full disk
                _write(descriptor, f"process {os.getpid()}, which is {doing}")
            yield
            with suppress(OSError):
                _write(descriptor, "")
        finally:
            os.close(descriptor)


class NameLock:
    """Holds a run's name while it is open, in this process and in those that inherit its descriptor: one active run a
    name. `up` takes it and its supervisor inherits it.

    Raises:
        InputError: it cannot be a name.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(
                f"--name {name!r}: a run's name has letters, digits, '.', '_' and '-', begins with a letter or digit, "
                "and has 63 of them at most"
            )
        self.name = name
        self.descriptor = open_lock(_lock_file(name))

    def take(self, run_id: str) -> None:
        """Take the name for a run.

        Raises:
            RunExists: another run has it; names that run.
        """
        # Somebody who only looks (`is_held`) has it for a moment: one refusal is not yet an answer.
        deadline = time.monotonic() + _LOOK_S
        while not try_lock(self.descriptor):
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = os.pread(self.descriptor, 400, 0).decode(errors="replace").strip() or self.name
            raise RunExists(
                f"a run named '{self.name}' is active: {holder}",
                next=f"overspan stop {self.name}, or start this one with --name OTHER",
            )
        _write(self.descriptor, run_id)

    def close(self) -> None:
        """Let go here; those that inherited it hold on."""
        os.close(self.descriptor)


def is_held(name: str) -> bool:
    """Whether an `up` or a supervisor of that name is alive."""
    try:
        descriptor = os.open(_lock_file(name), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor)
    finally:
        os.close(descriptor)


def _lock_file(name: str) -> Path:
    return runs_dir() / ".locks" / f"{name}.lock"
