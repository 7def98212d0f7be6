r"""Files of JSON, one document a line, that several processes may add to.

A line ends at `\n` and nowhere else: JSON may hold other ends of lines raw (U+0085, U+2028), at which `str.splitlines`
would split too. Only a crash or a full disk leaves a last line without its end: readers leave it out, and the next
`append` removes it, so that no line ever grows onto another.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from overspan.schema.reading import opened, read_bytes

_BLOCK_BYTES: Final = 4096


def append(path: Path, line: str, *, sync: bool = False) -> None:
    """Add one line, whole or not at all.

    Args:
        path: the file; made where it is absent.
        line: the document, without the line's end.
        sync: whether it must be on the disk before this returns.

    Raises:
        OSError: it cannot be written, e.g. the disk is full; the file holds whole lines as before.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # one writer at a time: it may cut off what another left
        size = _mend(descriptor)
        rest = line.encode() + b"\n"
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _mend(descriptor: int) -> int:
    """Cut off a last line without its end; the size of what stays, in bytes."""
    size = whole = os.fstat(descriptor).st_size
    while whole:
        begin = max(0, whole - _BLOCK_BYTES)
        if end := os.pread(descriptor, whole - begin, begin).rfind(b"\n") + 1:
            whole = begin + end
            break
        whole = begin
    if whole < size:
        os.ftruncate(descriptor, whole)
    return whole


def lines(path: Path) -> list[str]:
    """Its whole lines that are not blank, the first first; none where there is no such file."""
    try:
        *whole, _ = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    return [line.decode(errors="replace") for line in whole if line.strip()]


def backwards(path: Path) -> Iterator[str]:
    """The same, the last first, read block by block: the end of a long file costs little."""
    try:
        file = opened(path)
    except FileNotFoundError:
        return
    with file:
        begin, rest, cut = file.seek(0, os.SEEK_END), b"", True
        while begin:
            end, begin = begin, max(0, begin - _BLOCK_BYTES)
            rest, *whole = (os.pread(file.fileno(), end - begin, begin) + rest).split(b"\n")
            if cut and whole:
                whole.pop()  # what stands after the last line's end
                cut = False
            yield from (line.decode(errors="replace") for line in reversed(whole) if line.strip())
        if rest.strip() and not cut:
            yield rest.decode(errors="replace")
