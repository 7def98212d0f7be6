"""Regular expressions without backtracking: RE2, over bytes.

Time is linear in the length of the text whatever the pattern, so no line of a log can make the doctor slow. Bytes are
read as Latin-1: half a UTF-8 character is nothing special. Case does not matter: one version writes `Docker API`, the
next `docker API`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import re2

MEMORY_BYTES = 64 << 20
"""What one automaton may take; the one over all anchors needs a few MiB, and RE2's own 8 MiB is near that."""


class Match(Protocol):
    """The part of a match object that the doctor uses."""

    def start(self, group: int = 0) -> int:
        """Offset of the first byte."""

    def end(self, group: int = 0) -> int:
        """Offset after the last byte."""

    def groupdict(self) -> dict[bytes, bytes | None]:
        """Named groups."""


class Pattern(Protocol):
    """The part of a compiled pattern that the doctor uses."""

    def search(self, text: bytes, pos: int | None = None, endpos: int | None = None) -> Match | None:
        """First match at or after `pos`."""

    def match(self, text: bytes, pos: int | None = None, endpos: int | None = None) -> Match | None:
        """Match at `pos` exactly."""

    def finditer(self, text: bytes, pos: int | None = None, endpos: int | None = None) -> Iterator[Match]:
        """Every match, left to right."""

    def sub(self, repl: bytes, text: bytes) -> bytes:
        """The text with every match replaced."""


class BadPattern(ValueError):
    """A pattern that RE2 does not take."""


def _options(*, fold_case: bool) -> re2.Options:
    options = re2.Options()
    options.case_sensitive = not fold_case
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = MEMORY_BYTES
    options.log_errors = False
    return options


def compile_pattern(pattern: str, *, fold_case: bool = True) -> Pattern:
    """Compile one pattern.

    Raises:
        BadPattern: the syntax is wrong, or needs backtracking (back-references, look-around).
    """
    try:
        compiled: Pattern = re2.compile(pattern.encode(), _options(fold_case=fold_case))
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise BadPattern(reason.decode() if isinstance(reason, bytes) else str(reason)) from None
    return compiled


class PatternSet:
    """Which of many patterns occur in a text, in one pass."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._set = re2.Set.SearchSet(_options(fold_case=True))
        self._empty = True
        for pattern in patterns:
            self._set.Add(pattern.encode())
            self._empty = False
        if not self._empty:
            self._set.Compile()

    def found(self, text: bytes) -> list[int]:
        """Indices of the patterns that occur, ascending."""
        return [] if self._empty else sorted(self._set.Match(text) or ())


def escape(literal: str) -> str:
    """A pattern that matches the literal, where a space is any run of white space, a line's end too."""
    escaped = str(re2.escape(literal))
    return escaped.replace("\\ ", "\\s+")
