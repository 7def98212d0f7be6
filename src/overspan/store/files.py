"""Files: written whole or not at all, the size of folders, and documents of the user's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from overspan.schema.errors import InputError
from overspan.schema.reading import read_bytes

DocumentT = TypeVar("DocumentT", bound=BaseModel)


def bytes_of(folder: Path) -> int:
    """Bytes of every file in a folder, links not followed."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return sum(path.lstat().st_size for path in paths)


@contextmanager
def shared_as(place: Path) -> Iterator[None]:
    """What is made meanwhile is the group's too where `place`, or what exists above it, is: its group may write there,
    and new files belong to that group (setgid; inode(7)). Elsewhere the umask stays as it is."""
    mode = next(each for each in (place, *place.absolute().parents) if each.is_dir()).stat().st_mode
    before = os.umask(0o077)
    os.umask(before & ~0o070 if mode & stat.S_ISGID and mode & stat.S_IWGRP else before)
    try:
        yield
    finally:
        os.umask(before)


def usual_modes(folder: Path) -> None:
    """Give a folder and what is in it the modes of the umask: libraries write weights, and Python temporary folders,
    for their owner alone."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        now = path.stat().st_mode
        path.chmod((0o777 if now & stat.S_IXUSR else 0o666) & ~umask | now & stat.S_ISGID)


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part; `mode` holds from the start.

    Raises:
        OSError: it cannot be written, e.g. the disk is full; the old file is as it was, and nothing lies beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_cached(path: Path, text: str) -> None:
    """Write a file of the cache, see `write_whole`; folders above it are made."""
    with shared_as(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)


def write_out(path: Path, text: str) -> None:
    """Write where a person said: a file is replaced whole and keeps its mode, also behind a link; a device, a pipe and
    whatever else stands in /dev and /proc is written into.

    Raises:
        OSError: it cannot be written; a file that was there is as it was.
    """
    if path.exists() and (not path.is_file() or path.absolute().parts[1] in ("dev", "proc")):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        return
    target = path.resolve()
    write_whole(target, text, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644)


def read_document(path: Path, kind: type[DocumentT], what: str) -> DocumentT:
    """A JSON document of the user's own.

    Args:
        path: of the file.
        kind: what it must be.
        what: that in words, for errors.

    Raises:
        InputError: it cannot be read or is none; names the field.
    """
    try:
        return kind.model_validate_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        raise InputError(f"{path} is no {what}: {problem_of(error)}") from None


def problem_of(error: ValidationError, whole: str = "the document") -> str:
    """What is wrong with a document first, and where: `recipe.port: Field required`. `whole` stands for no place."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in problem['loc']) or whole}: {problem['msg']}"
