"""A run's logs: their ends, and their lines as they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from overspan.launchers.tail import last_lines
from overspan.schema.errors import UnknownName
from overspan.store.run_folder import RunFolder

_FOLLOW_INTERVAL_S = 0.2


def _logs(run: RunFolder, process: str | None) -> list[Path]:
    found = sorted(run.logs.glob("*.log"))
    if process is None:
        return found
    known = {log.stem: log for log in found}
    if process not in known:
        raise UnknownName("process", process, known, next=f"ls {run.logs}")
    return [known[process]]


def last(run: RunFolder, process: str | None, lines: int) -> Iterator[str]:
    """The last lines of each log; with several logs each line says whose it is."""
    found = _logs(run, process)
    for log in found:
        for line in last_lines(log, lines) if lines else []:
            yield f"{log.stem} | {line}" if len(found) > 1 else line


def follow(run: RunFolder, process: str | None, lines: int) -> Iterator[str]:
    """The last lines, then each new one as it comes, until the run has ended."""
    found = _logs(run, process)
    places = {log: log.stat().st_size for log in found}
    yield from last(run, process, lines)
    rest = dict.fromkeys(found, b"")
    while True:
        over = run.ended
        for log in found:
            with log.open("rb") as file:
                file.seek(places[log])
                fresh = rest[log] + file.read()
                places[log] = file.tell()
            *whole, rest[log] = fresh.split(b"\n")
            for line in whole:
                text = line.decode(errors="replace")
                yield f"{log.stem} | {text}" if len(found) > 1 else text
        if over:
            return
        time.sleep(_FOLLOW_INTERVAL_S)
