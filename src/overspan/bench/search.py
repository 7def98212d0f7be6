"""The highest load that keeps within an SLO: double until it does not, then halve the gap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from overspan.schema.workload import BenchPoint

CLOSE_ENOUGH = 1.1
"""A rate is found when the lowest that failed is within a tenth of the highest that passed."""

_MOST_POINTS = 24


@dataclass
class Search:
    """Chooses the next load by the last one's point.

    Args:
        first: load to begin with.
        whole: loads are whole numbers (users); else rates.
        share: of the requests, that must keep within the limits.
        most: load that the client cannot go beyond.
    """

    first: float
    whole: bool
    share: float
    most: float | None = None
    best: float | None = None
    worst: float | None = None

    def loads(self) -> Iterator[float]:
        """The loads to try; `tell` must be called after each."""
        load = self.first
        for _ in range(_MOST_POINTS):
            yield load
            if self.best is not None and self.worst is not None and self._found(self.best, self.worst):
                return
            if self.worst is None:
                if self.most is not None and load >= self.most:
                    return
                load = load * 2 if self.most is None else min(load * 2, self.most)
            else:
                load = (self.worst + (self.best or 0.0)) / 2
                load = float(int(load)) if self.whole else load
            if load < (1 if self.whole else self.first / 1024):
                return

    def enough(self, load: float, requests: int) -> int:
        """Requests that make this load last: four a user, or as long as the first rate did with `requests`. A burst of
        a few would pass at any rate."""
        return max(requests, math.ceil(4 * load if self.whole else requests * load / self.first))

    def __str__(self) -> str:
        kind = "users" if self.whole else "requests per second"
        if self.best is None:
            return f"none, not even {self.worst:g} {kind}"
        beyond = ", more than which this client cannot open" if self.best == self.most else ""
        return f"{self.best:.10g} {kind}{beyond}"

    def _found(self, best: float, worst: float) -> bool:
        return worst - best <= 1 if self.whole else worst / best <= CLOSE_ENOUGH

    def tell(self, load: float, point: BenchPoint) -> None:
        """Say how a load went."""
        kept = point.goodput is not None and point.goodput.share >= self.share
        if kept:
            self.best = max(load, self.best or 0.0)
        else:
            self.worst = min(load, self.worst or load)
