"""A run's logs: their ends, and their lines as they come."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from overspan.launchers.tail import POLL, WINDOW_BYTES, last_lines
from overspan.schema.errors import UnknownName
from overspan.schema.reading import opened
from overspan.store.locks import Say
from overspan.store.run_folder import RunFolder

LeftOut = Callable[[str], bool]
"""Whether a line is not shown."""


def shown(_: str) -> bool:
    """Leave nothing out."""
    return False


_FOLLOW_INTERVAL_S = 0.2


def _logs(run: RunFolder, process: str | None) -> list[Path]:
    found = sorted(run.logs.glob("*.log"))
    if process is None:
        return found
    known = {log.stem: log for log in found}
    if process not in known:
        raise UnknownName("process", process, known, next=f"ls {run.logs}")
    return [known[process]]


def polls(say: Say) -> LeftOut:
    """Leave out what Overspan's own polls wrote; the first time that is told."""
    say_once = functools.cache(say)

    def left_out(line: str) -> bool:
        if found := POLL.search(line):
            say_once("lines of `GET /metrics` and `GET /health` are left out, Overspan asks often; --all shows them")
        return found is not None

    return left_out


def last(run: RunFolder, process: str | None, lines: int, left_out: LeftOut = shown) -> Iterator[str]:
    """The last lines of each log; with several logs each line says whose it is."""
    found = _logs(run, process)
    for log in found:
        for line in last_lines(log, lines, left_out=left_out) if lines else []:
            yield f"{log.stem} | {line}" if len(found) > 1 else line


def follow(run: RunFolder, process: str | None, lines: int, left_out: LeftOut = shown) -> Iterator[str]:
    """The last lines, then each new one as it comes, until the run has ended. A line is shown when it is whole, and a
    last one without its end when the run is over. A log that appears meanwhile is shown from its start."""
    tails = {log: _Tail(log, left_out, lines) for log in _logs(run, process)}
    while True:
        over = run.ended  # asked before the logs are read: what is written until the end is shown
        tails |= {log: _Tail(log, left_out) for log in _logs(run, process) if log not in tails}
        for log, tail in tails.items():
            for line in tail.fresh(over=over):
                yield f"{log.stem} | {line}" if len(tails) > 1 else line
        if over:
            return
        time.sleep(_FOLLOW_INTERVAL_S)


class _Tail:
    """What has come into a log since it was looked at; at first its last lines, or all where `last` is None."""

    def __init__(self, log: Path, left_out: LeftOut, last: int | None = None) -> None:
        self._log, self._left_out, self._last = log, left_out, last
        self._place = 0 if last is None else max(0, log.stat().st_size - WINDOW_BYTES)
        self._rest = b""

    def fresh(self, *, over: bool) -> list[str]:
        """The lines that have come; `over`: no more will."""
        with opened(self._log) as file:
            cut = file.seek(self._place) > 0 and self._last is not None
            *ended, self._rest = (self._rest + file.read()).split(b"\n")
            self._place = file.tell()
        ended += [self._rest] if over and self._rest else []
        found = [line for each in ended[cut:] if not self._left_out(line := each.decode(errors="replace"))]
        if self._last is not None:
            found = [line for line in found if line.strip()]
            found, self._last = found[len(found) - min(self._last, len(found)) :], None
        return found
