"""Is there room on the disk? Asked before anything is fetched, so that nothing is half-made for want of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from overspan.schema.errors import InputError

FreeBytes = Callable[[Path], int]


def free_bytes(folder: Path) -> int:
    """Free bytes of the filesystem that holds a folder, or will hold it."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require(
    folder: Path,
    needed: int,
    what: str,
    *,
    error: type[InputError] = InputError,
    move: str,
    free: FreeBytes = free_bytes,
) -> None:
    """Refuse to begin when a filesystem has too little room.

    Args:
        folder: where the bytes will go.
        needed: bytes.
        what: what needs them.
        error: the class to raise.
        move: the environment variable that moves the folder elsewhere.
        free: tells the free bytes of a folder's filesystem.

    Raises:
        InputError: of class `error`; names needed, free, the folder and how to move it.
    """
    available = free(folder)
    if available < needed:
        raise error(
            f"no space for {what}: it needs {size(needed)}, {folder} has {size(available)} free",
            next=f"make room there, or move it to a larger disk: export {move}=/path/on/a/larger/disk",
        )


def size(count: int) -> str:
    """Bytes for a person: 2.5 GB, 92 MB, 12 kB, in powers of ten as disks are sold."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}" if count < 1000 * factor else f"{count / factor:.0f} {unit}"
    return f"{count} bytes"
