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

_FIELDS: dict[str, Callable[[Point], int]] = {
    "conc": lambda point: point.concurrency,
    "concurrency": lambda point: point.concurrency,
    "nodes": lambda point: point.nodes,
    "gpus": lambda point: point.gpus_used,
    "isl": lambda point: point.isl,
    "osl": lambda point: point.osl,
}
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

    text: str
    patterns: list[str]
    tests: list[tuple[str, Callable[[int, int], bool], int]]

    def takes(self, point: Point) -> bool:
        """Whether it names a point."""
        return self._names(point) and all(sign(_FIELDS[field](point), value) for field, sign, value in self.tests)

    def may_take(self, named: Point | PointName) -> bool:
        """Whether it may name what has become no point: by its names and users, all that is known of it."""
        users = [(sign, value) for field, sign, value in self.tests if field.startswith("conc")]
        return self._names(named) and all(sign(named.concurrency, value) for sign, value in users)

    def _names(self, named: Point | PointName) -> bool:
        return not self.patterns or any(matches(named, pattern) for pattern in self.patterns)


def parse_filter(only: str) -> PointFilter:
    """Read a filter.

    Raises:
        InputError: it is none.
    """
    found = PointFilter(only, [], [])
    for term in (part.strip() for part in only.split(",")):
        test = _TEST.fullmatch(term)
        if test is None and (not term or re.match(r"\w*\s*[<>=!]", term)):
            raise InputError(f"--only {only}: '{term}' is no pattern and no test", next=_HELP)
        if test is None:
            found.patterns.append(term.lower())
            continue
        name, sign, value = test.groups()
        if name.lower() not in _FIELDS:
            raise InputError(f"--only {only}: unknown field '{name}'", next=f"fields: {', '.join(_FIELDS)}")
        found.tests.append((name.lower(), _SIGNS[sign.replace("==", "=")], int(value)))
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
        raise InputError(f"--only {only}: names none of {len(points)} points", next=example)
    return kept


def matches(point: Point | PointName, pattern: str) -> bool:
    """Whether a shell pattern names a point: id (with its sweep or not), topology, decoding layout, name, scenario."""
    decoding = parse_topology(point.topology).answering.layout.label
    slug = point.id.split("/")[1]
    texts = [
        point.id,
        f"{point.sweep}/{point.id}",
        slug,
        point.topology,
        decoding,
        f"{decoding}-{point.name}",
        point.name,
        point.scenario,
    ]
    folded = pattern.lower()
    return any(fnmatchcase(text.lower(), folded) for text in texts if text)
