"""Folders that are named `<name>-<date>-<time>-<4 hex>`: runs and sweeps."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final, Self, TypeVar

from overspan.schema.errors import OverspanError, UnknownName
from overspan.store import jsonl

_RESERVE: Final = ".reserve"
"""A file that a full disk costs first: its room is for the last events, which say why the run ended."""

_RESERVE_BYTES: Final = 64 * 1024
"""Room for a death and an end with some hundred lines of a log each."""

Folder = TypeVar("Folder", bound="DatedFolder")


class DatedFolder:
    """One of them. Its id is the folder's name."""

    KIND: ClassVar[str]
    """What it is the folder of, for messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls, root: Path, name: str) -> Self:
        """Make a new one, which no other account may read: what is in it was said to this user's own engines."""
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        path = root / f"{name}-{stamp}-{os.urandom(2).hex()}"
        root.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        (path / _RESERVE).write_bytes(os.urandom(_RESERVE_BYTES))  # random: no file system makes it smaller
        return cls(path)

    @classmethod
    def all_in(cls, root: Path) -> list[Self]:
        """All of them, newest first."""
        try:
            paths = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."]
        except FileNotFoundError:
            return []
        return [cls(path) for path in sorted(paths, key=_stamp, reverse=True)]

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def name(self) -> str:
        """The name that it was made for, without date and time."""
        return self.id.rsplit("-", 3)[0]

    def append_line(self, file: str, line: str, *, sync: bool = False) -> None:
        """Add a line to a file of JSON lines. See `jsonl.append`.

        Raises:
            OverspanError: it cannot be written, e.g. the disk is full.
        """
        try:
            jsonl.append(self.path / file, line, sync=sync)
        except OSError as error:
            reserve = self.path / _RESERVE
            if error.errno in (errno.ENOSPC, errno.EDQUOT) and reserve.exists():
                reserve.unlink(missing_ok=True)
                self.append_line(file, line, sync=sync)
                return
            what = f"{self.KIND} {self.id}: {file} cannot be written: {error.strerror}"
            raise OverspanError(what, next=f"df -h {self.path}") from None


def _stamp(path: Path) -> tuple[list[str], str]:
    return path.name.rsplit("-", 3)[1:], path.name


def pick(kind: type[Folder], folders: Sequence[Folder], which: str, *, next: str | None = None) -> Folder:
    """The first folder of that id or name.

    Raises:
        UnknownName: there is none; tells the nearest.
    """
    for folder in folders:
        if which in (folder.id, folder.name):
            return folder
    raise UnknownName(kind.KIND, which, {name for folder in folders for name in (folder.id, folder.name)}, next=next)
