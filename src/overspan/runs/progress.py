"""How far a start is, read from the logs of all its ranks as they grow."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from overspan.engines.phases import Phase, SeenPhase, seen_in
from overspan.launchers.tail import WINDOW_BYTES, last_lines
from overspan.store.run_folder import RunFolder

_PAUSE_S: Final = 1.0
_LONGEST: Final = 2000
"""Bytes of a line that are looked at, at either end: the engine's configuration is one line of many thousands."""


@dataclass(frozen=True)
class Progress:
    """The newest that any rank's log tells of the start; `process` is whose log it is."""

    phase: SeenPhase
    process: str

    @property
    def text(self) -> str:
        """For a person."""
        return f"{self.phase.text} ({self.process})"

    @property
    def in_full(self) -> str:
        """With what only a first start costs."""
        return f"{self.text}; {self.phase.once}" if self.phase.once else self.text


class Starts:
    """Reads what has come to the logs since it looked last.

    Args:
        logs: the folder of a run's logs.
        phases: as the run's engine tells them.
        anew: whether what the logs hold already is of a start before this one.
    """

    def __init__(self, logs: Path, phases: tuple[Phase, ...], *, anew: bool = False) -> None:
        self._logs, self._phases = logs, phases
        self._read: dict[Path, int] = {each: each.stat().st_size for each in logs.glob("*.log")} if anew else {}
        self._newest: Progress | None = None
        self._told, self._told_at = "", -_PAUSE_S

    def news(self) -> Progress | None:
        """The newest, where its phase is another than the last that was given here; one a second at most."""
        now = time.monotonic()
        if now - self._told_at < _PAUSE_S or (seen := self.look()) is None or seen.phase.name == self._told:
            return None
        self._told, self._told_at = seen.phase.name, now
        return seen

    def look(self) -> Progress | None:
        """The newest of all; of several logs that grew, that of the one which grew last."""
        grown = [(stat.st_mtime, path, stat.st_size) for path in self._logs.glob("*.log") if (stat := path.stat())]
        for _, path, size in sorted(grown):
            begin = self._read.get(path, 0)
            if size <= begin:
                continue
            begin = max(begin, size - WINDOW_BYTES)
            with path.open("rb") as file:
                file.seek(begin)
                data = file.read(size - begin)
            # A bar that is still drawn has no end yet: it is read again with what comes.
            whole = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
            self._read[path] = begin + (whole if len(data) - whole < _LONGEST else len(data))
            for line in reversed(re.split(rb"[\r\n]+", data)):
                ends = line if len(line) <= 2 * _LONGEST else line[:_LONGEST] + b" " + line[-_LONGEST:]
                if line and (seen := seen_in(ends.decode(errors="replace"), self._phases)):
                    self._newest = Progress(seen, path.stem)
                    break
        return self._newest


def standing(run: RunFolder, phases: tuple[Phase, ...]) -> tuple[str, datetime] | None:
    """Where a start stands, and since when this phase has lasted; None where its supervisor has not told a phase."""
    for event in reversed(run.events()):
        if event.state is not None:
            return None
        if phase := event.data.get("phase"):
            now = Starts(run.logs, phases).look()
            return (now.text if now is not None and now.phase.name == phase else event.message), event.at
    return None


def newest_line(logs: Path) -> str:
    """The newest line of any process's log, where no phase is known: what is happening, and on which rank."""
    paths = sorted(logs.glob("*.log"), key=lambda log: log.stat().st_mtime)
    lines = last_lines(paths[-1], 1) if paths else []
    text = re.split(r"\r", lines[0].strip("\r"))[-1].strip() if lines else ""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[-_LONGEST:])
    return f"{paths[-1].stem}: {plain}" if lines else "waiting for the first line"
