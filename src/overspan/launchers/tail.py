"""The ends of log files."""

from __future__ import annotations

import os
import re
from pathlib import Path

WINDOW_BYTES = 256 * 1024
"""How far back a tail looks: thousands of lines, and never a whole log in memory."""


def last_lines(log: Path, count: int, *, pid: int | None = None) -> list[str]:
    """The last lines of a log that say something; none where there is no such file.

    Args:
        log: may be shared by several processes, each with `pid=N` in its prefix.
        count: of the lines, at most.
        pid: whose lines are wanted; where it wrote none, the last of all are given.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - WINDOW_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    lines = [line for line in text.splitlines()[size > WINDOW_BYTES :] if line.strip()]
    own = [line for line in lines if re.search(rf"\bpid={pid}\b", line)] if pid is not None else []
    return (own or lines)[-count:]
