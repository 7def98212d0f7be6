"""How commands print: data to stdout, everything else to stderr; readable without colour."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from overspan.cli.door import draw
from overspan.schema.printable import printable
from overspan.schema.units import duration

if TYPE_CHECKING:
    from overspan.schema.finding import Finding


def document(data: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(_plain(data), indent=2, ensure_ascii=False))


def _plain(data: Any) -> Any:
    if hasattr(data, "model_dump"):
        return data.model_dump(mode="json")
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    return data


def say(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns wide enough for what is in them; numbers to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    right = [all(_is_number(row[column]) for row in rows) and bool(rows) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(line(row) for row in [header, *rows])


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("", "-")


def counted(findings: Sequence[Finding]) -> str:
    """`2 failed, 1 not evaluated, 40 passed`."""
    counts = {status: sum(f.status == status for f in findings) for status in ("failed", "not_evaluated", "passed")}
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items())


def interruptible() -> None:
    """From now on SIGTERM is heard as Ctrl-C is, so that what was started is ended."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


class Ticker:
    """One line that is written over while something takes long; silent when stderr is no terminal."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._shown = 0

    def show(self, text: str) -> None:
        """Replace the line."""
        if not self.live:
            return
        words = printable(text).replace("\n", " ")
        line = f"  {words} ({duration(time.monotonic() - self._started)})"[: shutil.get_terminal_size().columns - 1]
        draw(sys.stderr, "\r" + line.ljust(self._shown))
        self._shown = len(line)

    def clear(self) -> None:
        """Take the line away."""
        if self.live and self._shown:
            draw(sys.stderr, "\r" + " " * self._shown + "\r")
            self._shown = 0
