"""A rule's patterns: compiled without backtracking (RE2, over bytes), and the plain text that each must hold.

RE2's time is linear in the length of the text whatever the pattern, so no line of a log can make the doctor slow. Bytes
are read as Latin-1: half a UTF-8 character is nothing special. Case does not matter: one version writes `Docker API`,
the next `docker API`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, TypedDict, cast

import re2

from overspan.schema.yamlio import plain

MEMORY_BYTES: Final = 64 << 20
"""What one automaton may take; the one over all anchors needs a few MiB, and RE2's own 8 MiB is near that."""

SHORTEST: Final = 4
"""Bytes: a shorter anchor would stop the scan at every other line."""

SPLIT_FROM: Final = 24
"""Bytes: a longer run is split in two where it has a space in each half's reach."""

Pattern = re.Pattern[bytes]
"""RE2's own objects have no types and the same methods; only the names in `groupdict` are bytes."""

_TOKEN: Final = re.compile(
    r"""\\(?P<escaped>[^a-zA-Z0-9]) | (?P<breaks>\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|['"`^$.+]|[^\x00-\x7f])
    | (?P<opens>\((?:\?(?:P<\w+>|:))?) | (?P<closes>\)) | (?P<bar>\|) | (?P<optional>[*?]|\{[\d,]*\}) | (?P<plain>.)""",
    re.VERBOSE | re.DOTALL,
)
_SPACE: Final = re.compile(r"(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\])| (?P<repeat>[?*+]?)", re.DOTALL)


class BadPattern(ValueError):
    """A pattern that RE2 does not take, or without enough plain text to look for."""


class Reason(TypedDict):
    """Why NCCL has no RDMA: the pattern of the line that shows it, what it means, and what mends it."""

    line: str
    why: str
    fix: str


class Vocabulary(TypedDict):
    """The keys of vocabulary.yaml."""

    course: dict[str, list[str]]
    anomalies: list[str]
    anomaly_anchors: list[str]
    harmless: list[str]
    everyday: list[str]
    prefixes: list[str]
    no_rdma: list[Reason]


@cache
def vocabulary() -> Vocabulary:
    """What every log may hold, whatever the engine; see vocabulary.yaml."""
    found: Vocabulary = plain(Path(__file__).with_name("vocabulary.yaml").read_text("utf-8"))
    return found


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
        return cast(Pattern, re2.compile(pattern.encode(), _options(fold_case=fold_case)))
    except re2.error as error:
        reason = error.args[0] if error.args else error
        raise BadPattern(reason.decode() if isinstance(reason, bytes) else str(reason)) from None


@cache
def compile_rule_pattern(pattern: str) -> Pattern:
    """Compile a pattern as rules write it, once: a space outside classes is any run of white space, a line's end too.

    Raises:
        BadPattern: see `compile_pattern`.
    """
    return compile_pattern(_SPACE.sub(_white_space, pattern))


def _white_space(token: re.Match[str]) -> str:
    repeat = token["repeat"]
    return token[0] if repeat is None else r"\s*" if repeat in {"?", "*"} else r"\s+"


def any_of(patterns: Iterable[str], *, fold_case: bool = True) -> Pattern:
    """One pattern that matches where one of several patterns of rules does."""
    spaced = (_SPACE.sub(_white_space, pattern) for pattern in patterns)
    return compile_pattern("|".join(f"(?:{pattern})" for pattern in spaced), fold_case=fold_case)


def literal(text: str) -> str:
    """A pattern that matches the text, where a space is any run of white space, a line's end too."""
    return str(re2.escape(text)).replace("\\ ", "\\s+")


class LiteralSet:
    """Which of many literals occur in a text, in one pass."""

    def __init__(self, literals: Iterable[str]) -> None:
        self._set = re2.Set.SearchSet(_options(fold_case=True))
        for text in literals:
            self._set.Add(literal(text).encode())
        self._set.Compile()

    def found(self, text: bytes) -> list[int]:
        """Indices of the literals that occur, ascending."""
        return sorted(self._set.Match(text) or ())


def anchors(pattern: str) -> list[str]:
    """Literals, in small letters, of which every match of the pattern on one line holds one.

    Of each alternative the longest plain run, in one piece or as halves, so that a message wrapped in the middle still
    shows one of them whole; where no run outside groups will do, the runs of the alternatives of one group.

    Raises:
        BadPattern: an alternative has no plain run of `SHORTEST` bytes, outside classes, that every match holds.
    """
    found: dict[str, None] = {}
    for part in _parts(pattern):
        choices = [[_most_telling(part.runs)]]
        if not choices[0][0]:
            choices = [[_most_telling(runs) for runs in alternatives] for alternatives in part.groups]
        best = max(choices, key=lambda runs: min(map(len, runs)), default=[""])
        if not all(best):
            raise BadPattern(f"needs at least {SHORTEST} plain characters in a row, and not only words of every log")
        found.update(dict.fromkeys(half for run in best for half in _halves(run.lower())))
    return list(found)


@dataclass(slots=True)
class _Part:
    """One alternative of a pattern: its runs of plain characters, and those of each alternative of its groups.

    Groups that may be absent are left out, and so are groups inside groups.
    """

    runs: list[str] = field(default_factory=lambda: [""])
    groups: list[list[list[str]]] = field(default_factory=list)


def _parts(pattern: str) -> list[_Part]:
    parts = [_Part()]
    depth, closed = 0, False
    for token in _TOKEN.finditer(pattern):
        kind, was_closed, closed = token.lastgroup, closed, False
        groups = parts[-1].groups
        runs = parts[-1].runs if depth == 0 else groups[-1][-1] if depth == 1 else [""]
        if kind in {"plain", "escaped"}:
            runs[-1] += token[kind]
            continue
        if kind == "optional":
            runs[-1] = runs[-1][:-1]
            if was_closed and depth == 0:
                groups.pop()
        runs.append("")
        if kind == "bar" and depth == 0:
            parts.append(_Part())
        elif kind == "bar" and depth == 1:
            groups[-1].append([""])
        elif kind == "opens":
            depth += 1
            if depth == 1:
                groups.append([[""]])
        elif kind == "closes":
            depth, closed = depth - 1, True
    return parts


def _most_telling(runs: Iterable[str]) -> str:
    stripped = (run.strip() for run in runs)
    telling = (run for run in stripped if len(run) >= SHORTEST and (run.count(" ") > 1 or not _everyday(run)))
    return max(telling, key=len, default="")


@cache
def _everyday_words() -> frozenset[str]:
    return frozenset(vocabulary()["everyday"])


def _everyday(run: str) -> bool:
    return all(word in _everyday_words() or len(word) < 3 for word in run.lower().split())


def _halves(run: str) -> list[str]:
    cuts = [place for place, char in enumerate(run) if char == " "]
    if len(run) < SPLIT_FROM or not cuts:
        return [run]
    cut = min(cuts, key=lambda place: abs(place - len(run) // 2))
    halves = [run[:cut], run[cut + 1 :]]
    return halves if all(len(half) >= 10 and not _everyday(half) for half in halves) else [run]
