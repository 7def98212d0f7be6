"""One active run a name. The lock is an flock that `up` takes and its supervisor inherits: it ends with the last of
them, however they end, so a crash never leaves a name taken."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

from overspan.schema.errors import InputError, RunExists
from overspan.schema.places import runs_dir

_LOOK_S = 0.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""It becomes a part of paths and of containers' names (Docker: [a-zA-Z0-9][a-zA-Z0-9_.-]+)."""


class NameLock:
    """Holds a run's name while it is open, in this process and in those that inherit its descriptor.

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
        self._path = _lock_file(name)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, run_id: str) -> None:
        """Take the name for a run.

        Raises:
            RunExists: another run has it; names that run.
        """
        # Somebody who only looks (`is_held`) has it for a moment: one refusal is not yet an answer.
        deadline = time.monotonic() + _LOOK_S
        while not _try(self.descriptor):
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            holder = self._path.read_text(encoding="utf-8").strip() or self.name
            raise RunExists(
                f"a run named '{self.name}' is active: {holder}",
                next=f"overspan stop {self.name}, or start this one with --name OTHER",
            )
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, run_id.encode(), 0)

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
        return not _try(descriptor)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_file(name: str) -> Path:
    return runs_dir() / ".locks" / f"{name}.lock"
