"""What to read: files, plain or gzip, standard input, or text at hand. Opened for reading only."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from overspan.schema import reading
from overspan.schema.errors import InputError

_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_SAMPLE_BYTES = 1 << 16
_BINARY_SHARE = 0.1
_TEXT_CONTROLS = b"\t\n\r\x0b\x0c\x1b\x08"


class Readable(Protocol):
    """Something that gives bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True)
class LogSource:
    """One log. Exactly one of `path`, `data` and `stream` is set.

    Args:
        name: how findings name it: the path as the user gave it.
        process: the process of the run that wrote it.
        host: where that process ran.
        ranks: its ranks, where known.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None
    stream: Readable | None = None
    process: str | None = None
    host: str | None = None
    ranks: tuple[int, ...] = ()


class LogUnreadable(Exception):
    """A log that cannot be read, or not as text; the message says why."""


@contextmanager
def opened(source: LogSource) -> Iterator[Readable]:
    """The log's bytes, from the start. A file that grows is read to the length it has now.

    Raises:
        LogUnreadable: absent, no permission, a folder, damaged gzip, or not text; while reading too.
    """
    try:
        with _raw(source) as raw:
            yield _as_text(raw)
    except (EOFError, gzip.BadGzipFile) as error:
        raise LogUnreadable(f"damaged gzip: {error}") from None
    except OSError as error:
        raise LogUnreadable(error.strerror or str(error)) from None
    except InputError as error:
        raise LogUnreadable(error.what) from None


@contextmanager
def _raw(source: LogSource) -> Iterator[Readable]:
    if source.path is not None:
        with reading.opened(source.path) as file:
            size = os.fstat(file.fileno()).st_size
            yield _Upto(file, size) if size else file
    elif source.stream is not None:
        yield source.stream
    elif source.data is not None:
        yield io.BytesIO(source.data)
    else:
        raise ValueError(f"{source.name}: no path, data or stream")


def _as_text(raw: Readable) -> Readable:
    head = raw.read(_SAMPLE_BYTES)
    joined: Readable = _Ahead(head, raw)
    if head[:2] == _GZIP_MAGIC:
        unpacked = gzip.GzipFile(fileobj=cast(IO[bytes], joined))
        head = unpacked.read(_SAMPLE_BYTES)
        joined = _Ahead(head, unpacked)
    elif head[:2] in _UTF16_MARKS:
        head = joined.read().decode(_UTF16_MARKS[head[:2]], errors="replace").encode()
        joined = io.BytesIO(head)
    if _is_binary(head[:_SAMPLE_BYTES]):
        raise LogUnreadable("it is binary, not a log")
    return joined


class _Upto:
    """A file up to a length: what is appended meanwhile is left for the next time."""

    def __init__(self, file: Readable, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        chunk = self._file.read(wanted)
        self._left -= len(chunk)
        return chunk


_LONG_ENOUGH = 256
"""Bytes from which the share of broken UTF-8 tells a binary file."""


class _Ahead:
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1, /) -> bytes:
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            head, self._head = self._head, b""
            return head + self._rest.read()
        head, self._head = self._head[:size], self._head[size:]
        return head


def _is_binary(head: bytes) -> bool:
    # A log cut by copytruncate starts with a hole of NULs: those say nothing.
    sample = head.lstrip(b"\x00")
    controls = sum(sample.count(bytes([code])) for code in range(32) if code not in _TEXT_CONTROLS)
    # In a few bytes some cut characters are many.
    broken = sample.decode("utf-8", errors="replace").count("\ufffd") if len(sample) >= _LONG_ENOUGH else 0
    return bool(sample) and max(controls, broken) > _BINARY_SHARE * len(sample)
