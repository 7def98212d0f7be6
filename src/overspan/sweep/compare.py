"""Two measurements of one thing: how far apart, with an interval, and whether that is more than noise.

Requests of one load are not independent: a slow second slows all that are in flight. So each point's requests are taken
in their order and cut into batches, none smaller than what is in flight at a time; the scatter of the batches' means,
not of the requests, gives the interval (batch means, Law and Kelton, Simulation Modeling and Analysis, chapter 9). Two
points differ when Welch's 95 % interval of their difference leaves zero out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, variance
from typing import Final, Literal

from overspan.bench.records import requests_in
from overspan.schema.base import Frozen
from overspan.schema.errors import UnknownName
from overspan.schema.workload import AnsweredRequest
from overspan.store.benches import choice_of
from overspan.store.run_folder import open_run
from overspan.sweep.folder import all_sweeps, open_sweep

BATCHES: Final = 10
LEAST_BATCHES: Final = 4
_ROUNDING: Final = 1e-3
"""Times are kept to a tenth of a microsecond."""
# 97.5 % of Student's t by degrees of freedom. Source: any table, e.g. NIST/SEMATECH e-Handbook, 1.3.6.7.2.
_STUDENT: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
                   12: 2.179, 15: 2.131, 18: 2.101, 20: 2.086, 25: 2.060, 30: 2.042}  # fmt: skip

Requests = Sequence[AnsweredRequest]
ChangeVerdict = Literal["lower", "higher", "noise", "too few requests"]


class MetricChange(Frozen):
    """One metric at one point, of the first and the second; `change` and its interval are shares of the first."""

    point: str
    metric: str
    first: float
    second: float
    change: float
    low: float | None = None
    high: float | None = None
    verdict: ChangeVerdict


def compare(first: Mapping[str, Requests], second: Mapping[str, Requests]) -> list[MetricChange]:
    """Every metric at every point that both have, in the order of the first."""
    return [
        _change(point, metric, batches(first[point]), batches(second[point]))
        for point in first
        if first[point] and second.get(point)  # a point without one success has nothing to compare
        for metric, batches in METRICS.items()
        if batches(first[point]) and batches(second[point])
    ]


@dataclass(frozen=True)
class Measured:
    """What was measured: at each point the requests that ended well, in the order of their ends, and how many failed
    where some did. `benches` says which bench of a run was taken, where there was a choice."""

    name: str
    points: dict[str, list[AnsweredRequest]]
    failed: dict[str, int]
    benches: str = ""


def requests_of(which: str) -> Measured:
    """The requests of a run or a sweep, by id, name or path; a sweep comes first.

    Raises:
        UnknownName: neither is there.
        RunDamaged: a file of requests is damaged.
    """
    try:
        sweep = open_sweep(which)
    except UnknownName:
        return _of_run(which)
    # Numbers of points that are not ok are not compared.
    ok = [result.point for result in sweep.measured().ended if result.state == "ok"]
    files = {point.id: sweep.requests(point) / f"requests-{point.concurrency}.jsonl" for point in ok}
    return _measured(sweep.id, {point: path for point, path in files.items() if path.exists()})


def _of_run(which: str) -> Measured:
    try:
        run = open_run(which)
    except UnknownName as error:
        error.next = f"overspan list; sweeps: {', '.join(folder.id for folder in all_sweeps()[:5]) or 'none'}"
        raise
    found = _measured(run.id, {str(level): path for level, path in run.requests().items()})
    return replace(found, benches=choice_of(run).note)


def _measured(name: str, files: dict[str, Path]) -> Measured:
    found = Measured(name, {}, {})
    for point, path in files.items():
        requests = list(requests_in(path))
        answered = [request for request in requests if request is not None]
        found.points[point] = sorted(answered, key=lambda request: request.end_at_ms)
        if len(answered) < len(requests):
            found.failed[point] = len(requests) - len(answered)
    return found


def _means(metric: str) -> Callable[[Requests], list[float]]:
    """Means of a latency over batches of requests."""

    def of(requests: Requests) -> list[float]:
        values = [float(value) for request in requests if (value := getattr(request, metric)) is not None]
        count = _batches(requests, len(values))
        edges = [len(values) * index // count for index in range(count + 1)] if count else []
        return [fmean(values[begin:end]) for begin, end in itertools.pairwise(edges)]

    return of


def _batches(requests: Requests, count: int) -> int:
    """How many batches so many of the requests make."""
    begin = min(item.end_at_ms - item.e2e_ms for item in requests)
    end = max(item.end_at_ms for item in requests)
    busy = sum(item.e2e_ms for item in requests)
    in_flight = math.ceil(busy / (end - begin) - _ROUNDING) if end > begin else 1
    return min(BATCHES, count // max(2, in_flight)) or min(1, count)


def _rates(requests: Requests) -> list[float]:
    """Output tokens a second in equal windows, the first and last tenth left out: there the load rises and falls.

    A request's tokens are spread evenly from its first to its last.
    """
    spans = [
        (item.first_token_at_ms, item.last_token_at_ms, item.output_tokens)
        for item in requests
        if item.first_token_at_ms is not None and item.last_token_at_ms is not None and item.output_tokens
    ]
    if not spans:
        return []
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    begin, end = begin + (end - begin) * 0.1, end - (end - begin) * 0.1
    count = _batches(requests, len(spans))
    width = (end - begin) / count
    if width <= 0:
        return []
    edges = [begin + index * width for index in range(count)]
    return [sum(_share(span, edge, edge + width) for span in spans) / width * 1e3 for edge in edges]


def _share(span: tuple[float, float, int], begin: float, end: float) -> float:
    """The tokens of a request that fall into a window."""
    first, last, tokens = span
    if last <= first:
        return tokens if begin <= first < end else 0.0
    return tokens * max(0.0, min(last, end) - max(first, begin)) / (last - first)


METRICS: Final[dict[str, Callable[[Requests], list[float]]]] = {
    "ttft_ms": _means("ttft_ms"),
    "tpot_ms": _means("tpot_ms"),
    "e2e_ms": _means("e2e_ms"),
    "output_tokens_per_s": _rates,
}


def _change(point: str, metric: str, first: list[float], second: list[float]) -> MetricChange:
    one, two = fmean(first), fmean(second)
    base = one or 1e-12
    known = {"point": point, "metric": metric, "first": one, "second": two, "change": (two - one) / base}
    if min(len(first), len(second)) < LEAST_BATCHES:
        return MetricChange(**known, verdict="too few requests")
    errors = [variance(batch) / len(batch) for batch in (first, second)]
    spread = math.sqrt(sum(errors)) * _student(errors, [len(first), len(second)])
    low, high = (two - one - spread) / base, (two - one + spread) / base
    verdict: ChangeVerdict = "higher" if low > 0 else "lower" if high < 0 else "noise"
    return MetricChange(**known, low=low, high=high, verdict=verdict)


def _student(errors: list[float], counts: list[int]) -> float:
    """The factor of a 95 % interval: Welch and Satterthwaite's degrees of freedom, the next lower ones of the table."""
    below = sum(error**2 / (count - 1) for error, count in zip(errors, counts, strict=True))
    freedom = sum(errors) ** 2 / below if below else min(counts) - 1
    return _STUDENT[max(known for known in _STUDENT if known <= max(1.0, freedom))]
