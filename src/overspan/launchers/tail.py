"""The ends of log files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from overspan.schema.errors import InputError
from overspan.schema.reading import opened

WINDOW_BYTES = 256 * 1024
"""How far back a tail looks: thousands of lines, and never a whole log in memory."""

POLL = re.compile(r'"GET /(?:metrics|health) HTTP/1\.[01]" 200\b')
"""A question that Overspan asks again and again, as uvicorn logs it. Source: uvicorn/logging.py, AccessFormatter."""


def last_lines(
    log: Path, count: int, *, pid: int | None = None, left_out: Callable[[str], object] = POLL.search
) -> list[str]:
    """The last lines of a log that say something; none where there is no such file.

    Args:
        log: may be shared by several processes, each with `pid=N` in its prefix.
        count: of the lines, at most.
        pid: whose lines are wanted; where it wrote none, the last of all are given.
        left_out: whether a line says nothing.
    """
    try:
        with opened(log) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - WINDOW_BYTES))
            text = file.read().decode(errors="replace")
    except (FileNotFoundError, InputError):
        return []
    lines = [line for line in text.splitlines()[size > WINDOW_BYTES :] if line.strip() and not left_out(line)]
    own = [line for line in lines if re.search(rf"\bpid={pid}\b", line)] if pid is not None else []
    return (own or lines)[-count:]
