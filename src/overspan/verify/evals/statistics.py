"""How sure an accuracy is, and whether two runs differ. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_Z: Final = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent questions (Wilson 1927, score interval).

    Several samples of one question are not independent: `count` stays the number of questions, which is on the safe
    side.
    """
    if count < 1:
        return 0.0, 1.0
    square = _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_p(one: Sequence[int], other: Sequence[int]) -> float:
    """The chance that two equally good runs differ as much as these, question by question, or more. Exact, two-sided.

    Under the null hypothesis each question's difference has either sign with equal chance (a sign-flip permutation
    test). With one sample a question this is McNemar's exact test.

    Args:
        one: right answers to each question, in one run.
        other: the same questions in the other run, as often sampled.
    """
    differences = [abs(a - b) for a, b in zip(one, other, strict=True) if a != b]
    seen = abs(sum(a - b for a, b in zip(one, other, strict=True)))
    chances = {0: 1.0}
    for size in differences:
        step: dict[int, float] = {}
        for total, chance in chances.items():
            for next_total in (total - size, total + size):
                step[next_total] = step.get(next_total, 0.0) + chance / 2
        chances = step
    return min(1.0, sum(chance for total, chance in chances.items() if abs(total) >= seen))
