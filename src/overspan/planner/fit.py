"""Fit the constants to measured points: least squares of relative errors, held near what is known before.

With few points the prior decides what they cannot; no constant becomes negative. Pure Python: the problem has about 15
unknowns, and numpy would be the heaviest dependency of the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from overspan.schema.prediction import Calibration

# Relative error of one point: the model's own, shared by neighbouring points, not the noise of a measurement. Points of
# one sweep repeat each other, so each counts little.
POINT_SIGMA: Final = 0.2
_ROUNDS: Final = 400
_SETTLED: Final = 1e-9


class MeasuredTime(NamedTuple):
    """One measured time and what each constant multiplies in it, in ms per unit."""

    measured_ms: float
    counted: dict[str, float]


def fit(prior: Calibration, points: Sequence[MeasuredTime], sigma: float = POINT_SIGMA) -> Calibration:
    """The constants that agree best with the points and with what was known before.

    Minimises sum(((predicted / measured - 1) / sigma)^2) + sum(((c - prior) / prior sigma)^2) over c >= 0 by
    coordinate descent; the problem is convex, so its one minimum is found.
    """
    values = {name: constant.value for name, constant in prior.constants.items()}
    rows = [{name: amount / point.measured_ms for name, amount in point.counted.items()} for point in points]
    used = [name for name in values if any(name in row for row in rows)]
    left = [1.0 - sum(values[name] * amount for name, amount in row.items()) for row in rows]
    for _ in range(_ROUNDS):
        moved = max(
            (_improve(name, prior, values=values, rows=rows, left=left, sigma=sigma) for name in used), default=0.0
        )
        if moved < _SETTLED:
            break
    constants = {
        name: held.with_(value=values[name]) if name in used else held for name, held in prior.constants.items()
    }
    return prior.with_(constants=constants, source=f"{prior.source}; fitted to {len(points)} points")


def _improve(
    name: str,
    prior: Calibration,
    *,
    values: dict[str, float],
    rows: Sequence[Mapping[str, float]],
    left: list[float],
    sigma: float,
) -> float:
    """Move one constant to its best value, the others held; returns how far, in its prior's sigmas."""
    known = prior.constants[name]
    pull = (known.value - values[name]) / known.sigma**2
    weight = 1 / known.sigma**2
    for row, residual in zip(rows, left, strict=True):
        amount = row.get(name, 0.0)
        pull += amount * residual / sigma**2
        weight += amount**2 / sigma**2
    best = max(0.0, values[name] + pull / weight)
    change = best - values[name]
    values[name] = best
    for index, row in enumerate(rows):
        left[index] -= row.get(name, 0.0) * change
    return abs(change) / known.sigma
