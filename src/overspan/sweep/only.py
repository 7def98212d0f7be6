"""`--only 'tp4*,conc<=64'`: some points of a sweep, in place of entries that are commented out."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
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


def chosen(points: Sequence[Point], only: str | None) -> list[Point]:
    """The points that a filter names: any of its patterns, and all of its tests.

    Raises:
        InputError: the filter is wrong, or names no point.
    """
    if only is None:
        return list(points)
    patterns, tests = [], []
    for term in (part.strip() for part in only.split(",")):
        found = _TEST.fullmatch(term)
        if found is None and (not term or re.match(r"\w*\s*[<>=!]", term)):
            raise InputError(f"--only {only}: '{term}' is no pattern and no test", next=_HELP)
        if found is None:
            patterns.append(term.lower())
            continue
        name, sign, value = found.groups()
        if name.lower() not in _FIELDS:
            raise InputError(f"--only {only}: unknown field '{name}'", next=f"fields: {', '.join(_FIELDS)}")
        tests.append((_FIELDS[name.lower()], _SIGNS[sign.replace("==", "=")], int(value)))
    kept = [
        point
        for point in points
        if (not patterns or any(matches(point, pattern) for pattern in patterns))
        and all(sign(value_of(point), value) for value_of, sign, value in tests)
    ]
    if not kept:
        raise InputError(f"--only {only}: names none of {len(points)} points", next=f"for example {points[0].id}")
    return kept


def matches(point: Point, pattern: str) -> bool:
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
