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
    from overspan.schema.errors import OverspanError
    from overspan.schema.finding import Finding
    from overspan.schema.inventory import Unreachable


def document(data: Any) -> None:
    """Print one JSON document on stdout."""
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False)
    click.echo(text.encode("utf-8", "replace").decode())  # halves of surrogate pairs are in no encoding


def _plain(data: Any) -> Any:
    if hasattr(data, "model_dump"):
        return data.model_dump(mode="json")
    if isinstance(data, (list, tuple)):
        return [_plain(item) for item in data]
    return data


def show_error(error: OverspanError | Unreachable) -> None:
    """What happened, the line that shows it, and what to do next; on stderr."""
    quoted = f"\n  | {error.quote}" if error.quote else ""
    say(f"error: {error.what}{quoted}" + (f"\nnext: {error.next}" if error.next else ""))


def say(text: str) -> None:
    """A line for the person, on stderr."""
    click.echo(text, err=True)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, free: Sequence[int] = (), names: Sequence[int] = (0,)
) -> str:
    """Columns wide enough for what is in them; numbers to the right. On a terminal no wider than that.

    Args:
        header: of each column.
        rows: as many cells each.
        free: columns of free text, which are cut first where a terminal is too narrow.
        names: columns that are cut next, in the middle, and never so far that two of them read alike.
    """
    columns = [list(column) for column in zip(header, *rows, strict=True)]
    gap = 2
    if room := terminal_columns():
        for index in free:
            _cut(columns[index], _width(columns, gap) - room, name=False)
        gap -= _width(columns, gap) > room
        for index in names:
            _cut(columns[index], _width(columns, gap) - room, name=True)
    for column in columns:
        side = ">" if rows and all(map(_is_number, column[1:])) else "<"
        column[:] = [f"{cell:{side}{max(map(len, column))}}" for cell in column]
    return "\n".join((" " * gap).join(row).rstrip() for row in zip(*columns, strict=True))


def terminal_columns() -> int | None:
    """How wide the terminal is; None where the output goes elsewhere: nothing is cut there."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _width(columns: Sequence[Sequence[str]], gap: int) -> int:
    return sum(max(map(len, column)) for column in columns) + gap * (len(columns) - 1)


def _cut(column: list[str], over: int, *, name: bool) -> None:
    """Make a column narrower by so many characters, as far as it may be."""
    whole = column[1:]
    room = max(len(column[0]), 12, max(map(len, column)) - over)
    while over > 0:
        column[1:] = [shortened(cell, room, middle=name) for cell in whole]
        if not name or len(set(column[1:])) == len(set(whole)):
            return
        room += 1


def shortened(text: str, room: int, *, middle: bool = False) -> str:
    """Text of so many characters at most; what is left out is an ellipsis, at its end or in its middle."""
    tail = (room - 1) // 2 if middle else 0
    return text if len(text) <= room else f"{text[: room - 1 - tail]}…{text[len(text) - tail :]}"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).replace("-", "", 1).isdigit() or text in ("", "-")


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
