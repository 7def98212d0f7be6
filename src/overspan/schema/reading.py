"""The one way to read a file of the user's own or of others: a regular file (or a pipe that the shell made), of a
bounded size, and JSON of a bounded depth."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, Final

from overspan.schema.errors import InputError, RecipeError

MOST_YAML: Final = 8 << 20
"""Bytes: an inventory of 10,000 hosts has some 5 MB, and libyaml reads 8 MiB in seconds."""

MOST_JSON: Final = 256 << 20
"""Bytes of one JSON document, of a capture or of a trace."""

_GIVEN: Final = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/self/fd/\d+")
"""Standard input, and the `<(...)` of a shell: pipes are read there, and nowhere else."""

_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def opened(path: Path) -> FileIO:
    """A file, open to be read.

    Raises:
        InputError: it is a device, a named pipe, a socket or a folder.
        OSError: it cannot be read.
    """
    # Without O_NONBLOCK the opening of a named pipe waits for its writer.
    file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))
    mode = os.fstat(file.fileno()).st_mode
    given = _GIVEN.fullmatch(str(path)) is not None and not stat.S_ISDIR(mode)
    if not stat.S_ISREG(mode) and not given:
        file.close()
        what = next((name for test, name in _KINDS if test(mode)), "a socket")
        raise InputError(f"{path} is {what}, not a file", next="give the path of a file")
    os.set_blocking(file.fileno(), True)
    return file


def read_bytes(path: Path, most: int = MOST_JSON) -> bytes:
    """What a file holds.

    Raises:
        InputError: it is no file, see `opened`, or is larger than `most` bytes.
        OSError: it cannot be read.
    """
    with opened(path) as file, BufferedReader(file) as reader:
        data = reader.read(most + 1)
    if len(data) > most:
        raise InputError(f"{path} is larger than {most >> 20} MiB, the most that is read", next=f"ls -l {path}")
    return data


def read_text(path: Path, what: str = "", *, most: int = MOST_YAML, encoding: str = "utf-8") -> str:
    """A file's text; `what` is said before its name in errors: `inventory file `.

    Raises:
        RecipeError: it cannot be read, is no file, is too large, or is not UTF-8.
    """
    try:
        return read_bytes(path, most).decode(encoding).replace("\r\n", "\n")
    except InputError as error:
        raise RecipeError(f"{what}{error.what}", next=error.next) from None
    except OSError as error:
        raise RecipeError(f"{what}{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{what}{path}: not UTF-8 text") from None


def json_of(text: str | bytes) -> Any:
    """What JSON holds.

    Raises:
        json.JSONDecodeError: it is none, is nested too deeply, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("brackets are nested too deeply", "", 0) from None
    except ValueError as error:  # also bytes that are no UTF-8
        raise json.JSONDecodeError(str(error)[:200], "", 0) from None
