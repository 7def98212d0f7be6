"""Percentiles and the Pareto front. Pure: numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which a share of some values lies, linear between neighbours (numpy's default).

    Args:
        ordered: one value or more, ascending.
        share: from 0 to 1: 0.99 is the 99th percentile.
    """
    return percentile_at(len(ordered), share, ordered.__getitem__)


def percentile_at(number: int, share: float, value_at: Callable[[int], float]) -> float:
    """The same for values that are not held in a list: `value_at(i)` is the i-th smallest of some number of them."""
    place = (number - 1) * share
    low = int(place)
    below, above = value_at(low), value_at(min(low + 1, number - 1))
    return below + (above - below) * (place - low)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (x, y) of which no other is as good in both and better in one; more is better. By rising x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front[::-1]
