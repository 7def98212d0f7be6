"""Files that are written whole or not at all, and the size of folders."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def bytes_of(folder: Path) -> int:
    """Bytes of every file in a folder, links not followed."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part; `mode` holds from the start.

    Raises:
        OSError: it cannot be written, e.g. the disk is full; the old file is as it was, and nothing lies beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
