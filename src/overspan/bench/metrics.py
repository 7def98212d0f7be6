"""From streams to numbers: one request's times, and the summary of many."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from operator import mul, sub

from overspan.bench.stream import Stream
from overspan.schema.slo import keeps
from overspan.schema.statistics import percentile, percentile_at
from overspan.schema.workload import Distribution, Goodput, RequestCounts, SteadyWindow

NS_PER_MS = 1e6
US_PER_MS = 1000.0


@dataclass(frozen=True)
class Times:
    """One request that ended well, milliseconds.

    `itl_ms` is the time a token: the gap between chunks where a chunk is a token, else that gap divided by the tokens
    that came with it on average. `chunk_gap_ms` is the gap as it was.
    """

    e2e_ms: float
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    chunk_gap_ms: Sequence[float] = ()
    itl_ms: Sequence[float] = ()

    @classmethod
    def of(cls, stream: Stream) -> Times:
        """The times of a request, from its actual send."""
        return cls.between(stream.send_ns, stream.stamps, stream.end_ns, stream.rest_tokens)

    @classmethod
    def between(cls, send_ns: int, stamps: array[int], end_ns: int, rest: int) -> Times:
        """The times of a request of which this is known.

        Args:
            send_ns: when it was sent.
            stamps: when each chunk came, nanoseconds.
            end_ns: when it ended.
            rest: tokens that came after the first chunk.
        """
        e2e = (end_ns - send_ns) / NS_PER_MS
        if not stamps:
            return cls(e2e)
        ttft = (stamps[0] - send_ns) / NS_PER_MS
        if len(stamps) < 2 or rest < 1:
            return cls(e2e, ttft)
        gaps = [gap / NS_PER_MS for gap in map(sub, stamps[1:], stamps)]
        share = len(gaps) / rest
        tokens = gaps if share == 1 else [gap * share for gap in gaps]
        return cls(e2e, ttft, (stamps[-1] - stamps[0]) / NS_PER_MS / rest, gaps, tokens)

    def meets(self, slo: Mapping[str, float]) -> bool:
        """Whether the request kept within every limit, milliseconds by metric; ITL by its mean.

        A request of one token has no TPOT and no ITL to keep; one without any text has no TTFT, and keeps none.
        """
        itl = sum(self.itl_ms) / len(self.itl_ms) if self.itl_ms else None
        took = {"ttft": self.ttft_ms, "tpot": self.tpot_ms, "itl": itl, "e2e": self.e2e_ms}
        return keeps(slo, took, missing_ms=float("inf") if self.ttft_ms is None else 0.0)


class TimeCounts:
    """Millions of times in milliseconds, kept as counts of whole microseconds: less memory than a list, and no sort.

    Their mean is exact, percentiles are so to the microsecond.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._sum = 0.0

    def add(self, values: Sequence[float]) -> None:
        """Take some."""
        self._counts.update(map(round, map(mul, values, repeat(US_PER_MS))))
        self._sum += sum(values)

    def __add__(self, other: TimeCounts) -> TimeCounts:
        whole = TimeCounts()
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

        return _distribution(self.mean, lambda share: percentile_at(ends[-1], share, at) / US_PER_MS)


@dataclass
class Samples:
    """Times of the requests that ended well, milliseconds."""

    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    _alike: TimeCounts = field(default_factory=TimeCounts)
    _itl: TimeCounts = field(default_factory=TimeCounts)
    _chunk_gap: TimeCounts = field(default_factory=TimeCounts)
    e2e: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, streams: Sequence[Stream]) -> Samples:
        """The times of those that ended well."""
        samples = cls()
        for stream in streams:
            if stream.error is None:
                samples.add(Times.of(stream))
        return samples

    def add(self, times: Times) -> None:
        """Take one request."""
        self.e2e.append(times.e2e_ms)
        if times.ttft_ms is not None:
            self.ttft.append(times.ttft_ms)
        if times.tpot_ms is not None:
            self.tpot.append(times.tpot_ms)
        if times.chunk_gap_ms is times.itl_ms:  # each chunk was a token, as most are
            self._alike.add(times.itl_ms)
        else:
            self._itl.add(times.itl_ms)
            self._chunk_gap.add(times.chunk_gap_ms)

    @property
    def itl(self) -> TimeCounts:
        """Times a token."""
        return self._alike + self._itl

    @property
    def chunk_gap(self) -> TimeCounts:
        """Times between chunks."""
        return self._alike + self._chunk_gap


def summary(values: Sequence[float]) -> Distribution:
    """Mean and percentiles (linear between neighbours, as numpy's default)."""
    if not values:
        return Distribution()
    ordered = sorted(values)
    return _distribution(sum(ordered) / len(ordered), lambda share: percentile(ordered, share))


def _distribution(mean: float, at: Callable[[float], float]) -> Distribution:
    # Microseconds of a millisecond are kept; the clock gives no more.
    p50, p90, p95, p99 = (round(at(share), 3) for share in (0.50, 0.90, 0.95, 0.99))
    return Distribution(mean=round(mean, 3), p50=p50, p90=p90, p95=p95, p99=p99)


def counts(streams: Sequence[Stream], planned: int) -> RequestCounts:
    """Every planned request, ok or failed; one that was never sent is a failure of the kind `not_sent`."""
    errors = Counter(stream.error for stream in streams if stream.error is not None)
    missing = planned - len(streams)
    if missing > 0:
        errors["not_sent"] += missing
    failed = sum(errors.values())
    details: dict[str, str] = {}
    for stream in streams:
        if stream.error is not None and stream.detail:
            details.setdefault(stream.error, stream.detail)
    by_kind = dict(sorted(errors.items()))
    return RequestCounts(planned=planned, ok=planned - failed, failed=failed, errors=by_kind, details=details)


@dataclass(frozen=True)
class Throughput:
    """Tokens per second over the time from the first send to the last end. None where nothing was counted."""

    duration_s: float | None = None
    output_tokens_per_s: float | None = None
    input_tokens_per_s: float | None = None
    total_tokens_per_s: float | None = None


def throughput(streams: Sequence[Stream]) -> Throughput:
    """Of the requests that ended well; the time counts the failed ones too."""
    seconds = _span_s(streams)
    if not seconds:
        return Throughput()
    ok = [stream for stream in streams if stream.error is None]
    output = sum(stream.output_tokens for stream in ok)
    inputs = [stream.input_tokens for stream in ok]
    given = sum(count for count in inputs if count is not None)
    known = bool(ok) and None not in inputs
    return Throughput(
        duration_s=round(seconds, 6),
        output_tokens_per_s=round(output / seconds, 3),
        input_tokens_per_s=round(given / seconds, 3) if known else None,
        total_tokens_per_s=round((given + output) / seconds, 3) if known else None,
    )


def _span_s(streams: Sequence[Stream]) -> float | None:
    sent = [stream for stream in streams if stream.send_ns]
    if not sent:
        return None
    return (max(stream.end_ns for stream in sent) - min(stream.send_ns for stream in sent)) / 1e9


def goodput(streams: Sequence[Stream], slo: Mapping[str, float], planned: int = 0) -> Goodput | None:
    """Requests within every limit, of all that were planned (one that failed or was never sent is not within), and
    their rate."""
    seconds = _span_s(streams)
    if not slo or not seconds:
        return None
    good = [stream for stream in streams if stream.error is None and Times.of(stream).meets(slo)]
    return Goodput(
        slo_ms=dict(slo),
        share=round(len(good) / max(planned, len(streams)), 6),
        requests_per_s=round(len(good) / seconds, 4),
        output_tokens_per_s=round(sum(stream.output_tokens for stream in good) / seconds, 3),
    )


@dataclass(frozen=True)
class Window:
    """The steady part of a closed loop: from when all users were in flight to the last send, nanoseconds."""

    begin_ns: int
    end_ns: int


def in_flight(streams: Sequence[Stream], wanted: int | None) -> tuple[float | None, int, Window | None]:
    """Mean of requests in flight over those wanted within the steady window, their peak, and that window.

    The mean and the window are None where the load never had `wanted` in flight, or sent nothing after it had.
    """
    changes = [(s.send_ns, 1) for s in streams if s.send_ns] + [(s.end_ns, -1) for s in streams if s.send_ns]
    changes.sort()
    running, peak, area, before = 0, 0, 0, 0
    begin: int | None = None
    end = max((s.send_ns for s in streams), default=0)
    for at, change in changes:
        if begin is not None and at <= end:
            area += running * (at - before)
        before = at
        running += change
        peak = max(peak, running)
        if begin is None and wanted is not None and running >= wanted:
            begin = at
    if begin is None or wanted is None or end <= begin:
        return None, peak, None
    return area / (end - begin) / wanted, peak, Window(begin, end)


def steady(streams: Sequence[Stream], window: Window | None) -> SteadyWindow | None:
    """Latencies of the requests sent and ended within the window; throughput by the tokens that came within it."""
    if window is None:
        return None
    inside = [s for s in streams if s.error is None and s.send_ns >= window.begin_ns and s.end_ns <= window.end_ns]
    if not inside:
        return None
    seconds = (window.end_ns - window.begin_ns) / 1e9
    tokens = 0.0
    for stream in streams:
        if stream.error is None and stream.stamps:
            came = sum(window.begin_ns <= stamp <= window.end_ns for stamp in stream.stamps)
            tokens += stream.output_tokens * came / len(stream.stamps)
    samples = Samples.of(inside)
    return SteadyWindow(
        duration_s=round(seconds, 6),
        requests=len(inside),
        ttft_ms=summary(samples.ttft),
        tpot_ms=summary(samples.tpot),
        itl_ms=samples.itl.summary(),
        e2e_ms=summary(samples.e2e),
        output_tokens_per_s=round(tokens / seconds, 3),
    )
