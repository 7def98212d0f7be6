"""Where the label of each dot stands, so that labels cover neither each other nor other dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

WIDTH, HEIGHT = 900.0, 300.0
"""Pixels of the plot's inside at the page's full width. Source: report.css (70rem wide, 24rem high), less margins."""

_DOT: Final = 7.0
_GLYPH: Final = (7.0, 14.0)
"""Width and height of a digit at 12 px."""

_SIDES: Final = {
    "top right": (1, -1),
    "bottom right": (1, 1),
    "top left": (-1, -1),
    "bottom left": (-1, 1),
    "top center": (0, -1),
    "bottom center": (0, 1),
}

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def place_labels(traces: Sequence[dict[str, Any]], *, logarithmic: bool) -> None:
    """Set `textposition` of every dot of the traces of one chart.

    Args:
        traces: Plotly traces with `x`, `y` and `text`, drawn together.
        logarithmic: whether the y axis is.
    """
    dots = [
        (x, y, len(text)) for trace in traces for x, y, text in zip(trace["x"], trace["y"], trace["text"], strict=True)
    ]
    boxes = places(_pixels([(x, y) for x, y, _ in dots], logarithmic=logarithmic), [length for *_, length in dots])
    for trace in traces:
        count = len(trace["x"])
        trace["textposition"], boxes = boxes[:count], boxes[count:]


def places(dots: Sequence[tuple[float, float]], lengths: Sequence[int]) -> list[str]:
    """A side for the label of each dot, in pixels from the top left: the first that covers least.

    Args:
        dots: where they are.
        lengths: characters of their labels.
    """
    marks = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots]
    taken: list[Box] = []
    chosen = []
    for (x, y), length, own in zip(dots, lengths, marks, strict=True):
        others = [*taken, *(mark for mark in marks if mark is not own)]
        boxes = {side: _box(x, y, length, direction) for side, direction in _SIDES.items()}
        best = min(boxes, key=lambda side: sum(_overlap(boxes[side], other) for other in others))
        taken.append(boxes[best])
        chosen.append(best)
    return chosen


def _pixels(points: Sequence[tuple[float, float]], *, logarithmic: bool) -> list[tuple[float, float]]:
    if not points:
        return []
    highs = [math.log10(y) if logarithmic else y for _, y in points]
    right, top = max(x for x, _ in points), max(highs)
    low = min(highs) if logarithmic else 0.0
    span = (top - low) or 1.0
    return [
        (x / (right or 1.0) * WIDTH, (top - high) / span * HEIGHT) for (x, _), high in zip(points, highs, strict=True)
    ]


def _box(x: float, y: float, length: int, direction: tuple[int, int]) -> Box:
    width, height = _GLYPH[0] * length, _GLYPH[1]
    across, down = direction
    left = x - width / 2 + across * (width / 2 + _DOT / 2)
    top = y - height / 2 + down * (height / 2 + _DOT)
    return left, top, left + width, top + height


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)
