"""From streams to numbers: one request's times, and the summary of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from overspan.bench.stream import Stream
from overspan.schema.workload import Distribution, RequestCounts

NS_PER_MS = 1e6


@dataclass
class Samples:
    """Times of the requests that ended well, milliseconds.

    `itl` is the time a token: the gap between chunks where a chunk is a token, else that gap divided by the tokens that
    came with it on average. `chunk_gap` is the gap as it was.
    """

    ttft: list[float] = field(default_factory=list)
    tpot: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    chunk_gap: list[float] = field(default_factory=list)
    e2e: list[float] = field(default_factory=list)

    def add(self, stream: Stream) -> None:
        """Take the times of one request that ended well."""
        stamps = stream.stamps
        self.e2e.append((stream.end_ns - stream.send_ns) / NS_PER_MS)
        if not stamps:
            return
        self.ttft.append((stamps[0] - stream.send_ns) / NS_PER_MS)
        rest = stream.output_tokens - stream.first_chunk_tokens
        if len(stamps) < 2 or rest < 1:
            return
        self.tpot.append((stamps[-1] - stamps[0]) / NS_PER_MS / rest)
        gaps = [(after - before) / NS_PER_MS for before, after in pairwise(stamps)]
        self.chunk_gap.extend(gaps)
        share = len(gaps) / rest
        self.itl.extend(gaps if share == 1 else [gap * share for gap in gaps])


def summary(values: Sequence[float]) -> Distribution:
    """Mean and percentiles (linear between neighbours, as numpy's default)."""
    if not values:
        return Distribution()
    ordered = sorted(values)
    p50, p90, p95, p99 = (_percentile(ordered, q) for q in (0.50, 0.90, 0.95, 0.99))
    mean = sum(ordered) / len(ordered)
    return Distribution(mean=_kept(mean), p50=_kept(p50), p90=_kept(p90), p95=_kept(p95), p99=_kept(p99))


def _percentile(ordered: Sequence[float], q: float) -> float:
    place = (len(ordered) - 1) * q
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _kept(value: float) -> float:
    """Microseconds of a millisecond are kept; the clock gives no more."""
    return round(value, 3)


def counts(streams: Sequence[Stream], planned: int) -> RequestCounts:
    """Every planned request, ok or failed; one that was never sent is a failure of the kind `not_sent`."""
    errors = Counter(stream.error for stream in streams if stream.error is not None)
    missing = planned - len(streams)
    if missing > 0:
        errors["not_sent"] += missing
    failed = sum(errors.values())
    return RequestCounts(planned=planned, ok=planned - failed, failed=failed, errors=dict(sorted(errors.items())))


@dataclass(frozen=True)
class Throughput:
    """Tokens per second over the time from the first send to the last end. None where nothing was counted."""

    duration_s: float | None
    output_tokens_per_s: float | None
    input_tokens_per_s: float | None
    total_tokens_per_s: float | None


def throughput(streams: Sequence[Stream]) -> Throughput:
    """Of the requests that ended well; the time counts the failed ones too."""
    sent = [stream for stream in streams if stream.send_ns]
    if not sent:
        return Throughput(None, None, None, None)
    seconds = (max(stream.end_ns for stream in sent) - min(stream.send_ns for stream in sent)) / 1e9
    ok = [stream for stream in streams if stream.error is None]
    if seconds <= 0:
        return Throughput(seconds, None, None, None)
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


def in_flight_share(streams: Sequence[Stream], wanted: int) -> tuple[float | None, int]:
    """Mean of requests in flight over those wanted, while requests were still to be sent; and their peak."""
    changes = [(s.send_ns, 1) for s in streams if s.send_ns] + [(s.end_ns, -1) for s in streams if s.send_ns]
    if not changes:
        return None, 0
    changes.sort()
    last_send = max(s.send_ns for s in streams)
    running, peak, area, full_at, before = 0, 0, 0, None, changes[0][0]
    for at, change in changes:
        if full_at is not None and at <= last_send:
            area += running * (at - before)
        before = at
        running += change
        peak = max(peak, running)
        if full_at is None and running >= wanted:
            full_at = at
    if full_at is None or last_send <= full_at:
        return None, peak
    return area / (last_send - full_at) / wanted, peak
