"""`--only 'tp4*,conc<=64'`: some points of a sweep, in place of entries that are commented out."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from overspan.schema.errors import InputError
from overspan.schema.point import Point
from overspan.schema.topology import parse_topology

_FIELDS = {"conc": "concurrency", "concurrency": "concurrency", "nodes": "nodes", "gpus": "gpus_used", "isl": "isl",
           "osl": "osl"}  # fmt: skip
_SIGNS = {"<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt, "=": operator.eq}
_TEST = re.compile(r"([A-Za-z_]+)\s*(<=|>=|!=|==|<|>|=)\s*([0-9]+)")
_HELP = "patterns of topology, id or scenario (tp4*, 1p2d*), and tests (conc<=64, nodes=3), joined by commas"


@dataclass(frozen=True)
class PointName:
    """The names of a point that an entry would have, had it not been refused."""

    id: str
    sweep: str
    scenario: str
    topology: str
    name: str
    concurrency: int


@dataclass(frozen=True)
class PointFilter:
    """A filter, read: any of its patterns, and all of its tests."""

    patterns: list[str]
    tests: list[tuple[str, Callable[[int, int], bool], int]]

    def takes(self, point: Point | PointName) -> bool:
        """Whether it names a point; of what has become no point only what is known of it is tested."""
        named = not self.patterns or any(matches(point, pattern) for pattern in self.patterns)
        known = [test for test in self.tests if hasattr(point, test[0])]
        return named and all(sign(getattr(point, field), value) for field, sign, value in known)


def parse_filter(only: str) -> PointFilter:
    """Read a filter.

    Raises:
        InputError: it is none.
    """
    found = PointFilter([], [])
    for term in (part.strip() for part in only.split(",")):
        test = _TEST.fullmatch(term)
        if test is None and (not term or re.match(r"\w*\s*[<>=!]", term)):
            raise InputError(f"--only {only}: '{term}' is neither a pattern nor a test", next=_HELP)
        if test is None:
            found.patterns.append(term.lower())
            continue
        name, sign, value = test.groups()
        if name.lower() not in _FIELDS:
            raise InputError(f"--only {only}: unknown field '{name}'", next=f"fields: {', '.join(_FIELDS)}")
        found.tests.append((_FIELDS[name.lower()], _SIGNS[sign.replace("==", "=")], int(value)))
    return found


def chosen(points: Sequence[Point], only: str | None) -> list[Point]:
    """The points that a filter names.

    Raises:
        InputError: the filter is wrong, or names no point.
    """
    if only is None:
        return list(points)
    wanted = parse_filter(only)
    kept = [point for point in points if wanted.takes(point)]
    if not kept:
        example = f"for example {points[0].id}" if points else None
        raise InputError(f"--only {only}: matches none of the {len(points)} points", next=example)
    return kept


def matches(point: Point | PointName, pattern: str) -> bool:
    """Whether a shell pattern names a point: id (with its sweep or not), topology, decoding layout, name, scenario."""
    decoding = parse_topology(point.topology).answering.layout.label
    texts = [point.id, f"{point.sweep}/{point.id}", point.id.split("/")[1], point.topology, decoding]
    texts += [f"{decoding}-{point.name}", point.name, point.scenario]
    return any(fnmatchcase(text.lower(), pattern.lower()) for text in texts if text)
