"""Millions of times, kept as counts of whole microseconds: less memory than their list, and no sort of it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import mul

from overspan.schema.statistics import percentile_at
from overspan.schema.workload import Distribution

US_PER_MS = 1000.0


class Tally:
    """Times in milliseconds. Their mean is exact, percentiles are so to the microsecond."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Take some."""
        self._counts.update(map(round, map(mul, values, repeat(US_PER_MS))))
        self._sum += sum(values)

    def __add__(self, other: Tally) -> Tally:
        whole = Tally()
        whole._counts = self._counts + other._counts
        whole._sum = self._sum + other._sum
        return whole

    @property
    def count(self) -> int:
        """How many there are."""
        return self._counts.total()

    @property
    def mean(self) -> float | None:
        """Their mean, None without any."""
        return self._sum / self.count if self._counts else None

    def summary(self) -> Distribution:
        """Mean and percentiles, linear between neighbours as numpy's default."""
        if self.mean is None:
            return Distribution()
        values = sorted(self._counts)
        ends = list(accumulate(self._counts[value] for value in values))

        def at(place: int) -> int:
            return values[bisect_right(ends, place)]

        p50, p90, p95, p99 = (
            round(percentile_at(ends[-1], share, at) / US_PER_MS, 3) for share in (0.50, 0.90, 0.95, 0.99)
        )
        return Distribution(mean=round(self.mean, 3), p50=p50, p90=p90, p95=p95, p99=p99)
