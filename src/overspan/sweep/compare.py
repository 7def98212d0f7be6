"""Two measurements of one thing: how far apart, with an interval, and whether that is more than noise.

Requests of one load are not independent: a slow second slows all that are in flight. So each point's requests are taken
in their order and cut into batches, none smaller than what is in flight at a time; the scatter of the batches' means,
not of the requests, gives the interval (batch means, Law and Kelton, Simulation Modeling and Analysis, chapter 9). Two
points differ when Welch's 95 % interval of their difference leaves zero out.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, variance
from typing import Any, Final, Literal

from overspan.schema.base import Frozen
from overspan.schema.errors import RunDamaged

BATCHES: Final = 10
LEAST_BATCHES: Final = 4
_ROUNDING: Final = 1e-3
"""Times are kept to a tenth of a microsecond."""
# 97.5 % of Student's t by degrees of freedom. Source: any table, e.g. NIST/SEMATECH e-Handbook, 1.3.6.7.2.
_STUDENT: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
                   12: 2.179, 15: 2.131, 18: 2.101, 20: 2.086, 25: 2.060, 30: 2.042}  # fmt: skip

Requests = Sequence[dict[str, Any]]
Verdict = Literal["lower", "higher", "noise", "too few requests"]


class Difference(Frozen):
    """One metric at one point, of the first and the second; `change` and its interval are shares of the first."""

    point: str
    metric: str
    first: float
    second: float
    change: float
    low: float | None = None
    high: float | None = None
    verdict: Verdict


def compare(first: Mapping[str, Requests], second: Mapping[str, Requests]) -> list[Difference]:
    """Every metric at every point that both have, in the order of the first."""
    return [
        _difference(point, metric, batches(first[point]), batches(second[point]))
        for point in first
        if point in second
        for metric, batches in METRICS.items()
        if batches(first[point]) and batches(second[point])
    ]


def read_requests(lines: Iterable[str], where: str) -> tuple[list[dict[str, Any]], int]:
    """The requests of one point that were answered, in the order of their ends, and how many were not.

    Raises:
        RunDamaged: a line is none.
    """
    found, failed = [], 0
    for number, line in enumerate(lines, 1):
        try:
            request = json.loads(line)
            ok = bool(request["ok"])
        except (ValueError, KeyError, TypeError):
            raise RunDamaged(f"{where}, line {number} is no request of a bench", quote=line.strip()[:200]) from None
        if ok:
            found.append(request)
        failed += not ok
    return sorted(found, key=lambda request: float(request["end_at_ms"])), failed


def _means(metric: str) -> Callable[[Requests], list[float]]:
    """Means of a latency over batches of requests."""

    def of(requests: Requests) -> list[float]:
        values = [float(request[metric]) for request in requests if request.get(metric) is not None]
        count = _batches(requests, len(values))
        edges = [len(values) * index // count for index in range(count + 1)] if count else []
        return [fmean(values[begin:end]) for begin, end in itertools.pairwise(edges)]

    return of


def _batches(requests: Requests, count: int) -> int:
    """How many batches so many of the requests make."""
    begin = min(float(item["end_at_ms"]) - float(item["e2e_ms"]) for item in requests)
    end = max(float(item["end_at_ms"]) for item in requests)
    busy = sum(float(item["e2e_ms"]) for item in requests)
    in_flight = math.ceil(busy / (end - begin) - _ROUNDING) if end > begin else 1
    return min(BATCHES, count // max(2, in_flight)) or min(1, count)


def _rates(requests: Requests) -> list[float]:
    """Output tokens a second in equal windows, the first and last tenth left out: there the load rises and falls.

    A request's tokens are spread evenly from its first to its last.
    """
    spans = [
        (float(item["first_token_at_ms"]), float(item["last_token_at_ms"]), float(item["output_tokens"]))
        for item in requests
        if item.get("first_token_at_ms") is not None and item.get("output_tokens")
    ]
    if not spans:
        return []
    begin, end = min(span[0] for span in spans), max(span[1] for span in spans)
    begin, end = begin + (end - begin) * 0.1, end - (end - begin) * 0.1
    count = _batches(requests, len(spans))
    width = (end - begin) / count
    if width <= 0:
        return []
    sums = [
        sum(_share(span, begin + index * width, begin + (index + 1) * width) for span in spans)
        for index in range(count)
    ]
    return [tokens / width * 1e3 for tokens in sums]


def _share(span: tuple[float, float, float], begin: float, end: float) -> float:
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


def _difference(point: str, metric: str, first: list[float], second: list[float]) -> Difference:
    one, two = fmean(first), fmean(second)
    base = one or 1e-12
    known = {"point": point, "metric": metric, "first": one, "second": two, "change": (two - one) / base}
    if min(len(first), len(second)) < LEAST_BATCHES:
        return Difference(**known, verdict="too few requests")
    errors = [variance(batch) / len(batch) for batch in (first, second)]
    spread = math.sqrt(sum(errors)) * _student(errors, [len(first), len(second)])
    low, high = (two - one - spread) / base, (two - one + spread) / base
    verdict: Verdict = "higher" if low > 0 else "lower" if high < 0 else "noise"
    return Difference(**known, low=low, high=high, verdict=verdict)


def _student(errors: list[float], counts: list[int]) -> float:
    """The factor of a 95 % interval: Welch and Satterthwaite's degrees of freedom, the next lower ones of the table."""
    below = sum(error**2 / (count - 1) for error, count in zip(errors, counts, strict=True))
    freedom = sum(errors) ** 2 / below if below else min(counts) - 1
    return _STUDENT[max(known for known in _STUDENT if known <= max(1.0, freedom))]
