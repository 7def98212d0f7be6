"""How much load: the levels of a workload, what of it fits together, and the search for the most within an SLO."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from overspan.bench.lengths import parse_lengths
from overspan.bench.trace import read_trace
from overspan.schema.errors import InputError
from overspan.schema.workload import BenchPoint, Workload, level_of

CLOSE_ENOUGH = 1.1
"""A rate is found when the lowest that failed is within a tenth of the highest that passed."""

_MOST_POINTS = 24


@dataclass(frozen=True)
class Level:
    """How much load: users of a closed loop, or requests per second of an open one (None: a trace's own times)."""

    users: int | None = None
    rate_per_s: float | None = None

    @property
    def name(self) -> str:
        """For file names and seeds."""
        return str(level_of(self.users, self.rate_per_s))


def levels_of(workload: Workload) -> list[Level]:
    """The levels of a workload, in its order."""
    if workload.arrival == "closed":
        return [Level(users=users) for users in workload.concurrency]
    if workload.arrival == "trace":
        return [Level()]
    return [Level(rate_per_s=rate) for rate in workload.rates]


def check_workload(workload: Workload) -> None:
    """Refuse what does not fit together, what would have no effect, and files that cannot be read.

    Raises:
        InputError: names the field and what would be right.
    """
    if not levels_of(workload):
        missing = "concurrency" if workload.arrival == "closed" else "rates"
        raise InputError(f"a {workload.arrival} load needs {missing}", next=f"give --{missing.removesuffix('s')}")
    if workload.search and not workload.slo_ms:
        raise InputError("a search needs limits", next="give them like --slo ttft=500,tpot=50")
    if workload.arrival == "trace" and workload.trace is None:
        raise InputError("arrivals of a trace need a trace", next="give --trace FILE")
    for problem, remedy in _without_effect(workload):
        raise InputError(problem, next=remedy)
    if workload.trace is not None:
        _, timed = read_trace(Path(workload.trace))
        if workload.arrival == "trace" and not timed:
            raise InputError(f"{workload.trace} has no times", next="give --concurrency or --rate")
    for notation in (workload.input_lengths, workload.output_lengths):
        if notation is not None:
            parse_lengths(notation)


def _without_effect(workload: Workload) -> Iterator[tuple[str, str]]:
    """Options that the rest of the load leaves no place for, each with what to do."""
    closed, traced = workload.arrival == "closed", workload.trace is not None
    if not closed and workload.turns > 1:
        yield "turns of a conversation need a closed loop", "leave out --rate, or --turns"
    if not closed and workload.ramp_s:
        yield "a ramp is of users, and this load has none", "leave out --ramp, or give --concurrency"
    if workload.arrival != "gamma" and workload.burstiness != 1.0:
        yield "burstiness is of gamma arrivals", "add --arrival gamma, or leave out --burstiness"
    if workload.arrival != "trace" and workload.trace_speed != 1.0:
        yield "a speed is of a trace's own times", "add --arrival trace, or leave out --trace-speed"
    if workload.arrival == "trace" and workload.search:
        yield "a search changes users or rates, and a trace has its own times", "give --concurrency or --rate"
    if traced and (workload.turns > 1 or workload.shared_prefix_tokens):
        yield "a trace brings its own prompts", "leave out --turns and --shared-prefix, or --trace"
    if workload.shared_prefix_tokens and workload.shared_prefix_tokens >= workload.input_tokens:
        wrong = f"prompts of {workload.input_tokens} tokens cannot begin with {workload.shared_prefix_tokens} others"
        yield wrong, "--input-tokens counts the prefix too: give more"


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
        kind = "user" if self.whole and (self.best or self.worst) == 1 else kind
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
