"""The one door to the terminal."""

from __future__ import annotations

import codecs
from typing import Any, TextIO

from overspan.schema.printable import printable


class Door:
    """A stream of this command, through which no text of others drives the terminal (`schema/printable`).

    Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        if codecs.lookup(stream.encoding or "ascii").name == "ascii":  # or click would write past this door
            stream.reconfigure(encoding="utf-8")  # type: ignore[attr-defined]
        self.raw = stream

    def write(self, text: str) -> int:
        """Write, with every control as its escape."""
        return self.raw.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def draw(stream: TextIO, text: str) -> None:
    """Write Overspan's own control sequences. What others said in it was made `printable` before."""
    raw = stream.raw if isinstance(stream, Door) else stream
    raw.write(text)
    raw.flush()
