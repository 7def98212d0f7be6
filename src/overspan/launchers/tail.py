"""The ends of log files."""

from __future__ import annotations

import os
import re
from pathlib import Path

WINDOW_BYTES = 256 * 1024
"""How far back a tail looks: thousands of lines, and never a whole log in memory."""


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - WINDOW_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = text.splitlines()
    return lines[1:] if size > WINDOW_BYTES else lines


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log that say something; none where there is no such file."""
    return [line for line in _tail(log) if line.strip()][-count:]


def last_lines_of_pid(log: Path, pid: int, count: int) -> list[str]:
    """The last lines that one process wrote into a log that several share, by the `pid=N` in their prefix."""
    mark = re.compile(rf"\bpid={pid}\b")
    return [line for line in _tail(log) if mark.search(line)][-count:]
