"""What is in a folder of a host: each file's size and SHA-256. A file is read again only when it has changed.

What is known of a file is kept on this machine, beside its size, inode and times. The time of the inode's last change
(ctime) is among them: no program can set it back, so a file that was altered and dated back is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Host
from overspan.schema.places import state_dir
from overspan.store.files import write_whole
from overspan.transport.base import Transport

PARTIAL: Final = ".overspan-partial-"
"""In the name of a file that has not arrived whole."""

IGNORED: Final = (".cache/", ".git/")
"""Folders that tools keep notes in: `hf download --local-dir` and git. They differ between equal models."""

LIST_TIMEOUT_S: Final = 60.0
HASHES_AT_ONCE: Final = 4
"""SHA-256 runs at 0.5 to 2 GB/s on a core; four keep up with an NVMe drive."""


class Reached(Protocol):
    """A host, and the way to it: `transport.copying.ReachableHost`, or whatever else holds both."""

    @property
    def host(self) -> Host:
        """The host."""
        ...

    @property
    def transport(self) -> Transport:
        """Runs commands there."""
        ...


@dataclass(frozen=True)
class HashedFile:
    """One file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class FolderManifest:
    """A folder of a host, by path inside it as `os.fsdecode` reads it: names need not be UTF-8."""

    host: str
    folder: str
    files: dict[str, HashedFile] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self.files.values())


@dataclass(frozen=True)
class FileDifference:
    """A file that two folders do not share; `first` or `second` is None where it is absent."""

    path: str
    first: HashedFile | None
    second: HashedFile | None


def read_manifest(end: Reached, folder: str) -> FolderManifest:
    """Look at a folder; what is not known yet is hashed there, several files at a time. An absent folder is empty.

    Raises:
        HostUnreachable: the host does not answer.
        OverspanError: the folder cannot be read.
    """
    stats = _list(end, folder)
    kept = _kept_file(end, folder)
    known: dict[str, list[str]] = json.loads(kept.read_text()) if kept.exists() else {}
    fresh = {path: [*stat, known[path][-1]] for path, stat in stats.items() if known.get(path, [])[:-1] == stat}
    digests = _hash(end, folder, [path for path in stats if path not in fresh])
    fresh |= {path: [*stats[path], digest] for path, digest in digests.items()}
    if fresh != known:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, json.dumps(fresh, indent=1))
    files = {path: HashedFile(size=int(fresh[path][0]), sha256=fresh[path][-1]) for path in sorted(fresh)}
    return FolderManifest(host=end.host.name, folder=folder, files=files)


def differences(first: FolderManifest, second: FolderManifest) -> list[FileDifference]:
    """Every file that is not the same in both."""
    return [
        FileDifference(path=path, first=first.files.get(path), second=second.files.get(path))
        for path in sorted(first.files.keys() | second.files.keys())
        if first.files.get(path) != second.files.get(path)
    ]


def printable(path: str) -> str:
    """A path with a mark in the place of each byte that is no UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def list_command(folder: str) -> list[str]:
    """Prints what is asked of each file before its content is."""
    return ["find", "-L", _absolute(folder), "-type", "f", "-printf", r"%s %T@ %C@ %i %P\0"]


def _list(end: Reached, folder: str) -> dict[str, list[str]]:
    """Size, modification time, inode change time and inode number of each file, by path inside the folder."""
    if end.transport.run(["test", "-e", folder], timeout_s=LIST_TIMEOUT_S).code != 0:
        return {}
    done = end.transport.run(list_command(folder), timeout_s=LIST_TIMEOUT_S, exact=True).check(f"listing {folder}")
    found = {}
    for record in done.stdout.split("\0"):
        if record:
            *stat, path = record.split(" ", 4)
            if PARTIAL not in path and not path.startswith(IGNORED):
                found[path] = stat
    return found


def _hash(end: Reached, folder: str, paths: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files of a folder."""
    names = os.fsencode("".join(f"{_absolute(folder)}/{path}\0" for path in paths))
    if not names:
        return {}
    command = ["xargs", "-0", "-r", "-n", "1", "-P", str(HASHES_AT_ONCE), "sha256sum", "-z", "--"]
    done = end.transport.run(command, stdin=names, exact=True).check(f"reading {folder}")
    pairs = [record.split("  ", 1) for record in done.stdout.split("\0") if record]
    return {name.removeprefix(f"{_absolute(folder)}/"): digest for digest, name in pairs}


def _absolute(folder: str) -> str:
    if not folder.startswith("/"):
        raise OverspanError(
            f"not an absolute path: {folder!r}", next="write it from / on: hosts may have different home folders"
        )
    return folder.rstrip("/") or "/"


def _kept_file(end: Reached, folder: str) -> Path:
    ssh = end.host.ssh.model_dump_json() if end.host.ssh is not None else ""
    key = hashlib.sha256(f"{end.host.name}\n{ssh}\n{_absolute(folder)}".encode()).hexdigest()[:24]
    return state_dir() / "manifests" / f"{key}.json"
