"""From the requests of one level to its point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from overspan.bench.asked import asked_and_got, ends_of
from overspan.bench.audit import Audit, audit_report
from overspan.bench.levels import Level
from overspan.bench.metrics import (
    NS_PER_MS,
    Samples,
    Window,
    counts,
    goodput,
    in_flight,
    steady,
    summary,
    throughput,
)
from overspan.bench.pauses import CalmClock, find_pauses, is_disturbed, pauses_seen
from overspan.bench.stream import Stream
from overspan.bench.unseen import tpot_range
from overspan.schema.workload import BenchPoint, Distribution, SelfTest, ServerMetrics, SteadyWindow


def make_point(
    level: Level,
    planned: int,
    streams: Sequence[Stream],
    audit: Audit,
    *,
    slo: Mapping[str, float] | None = None,
    calibration: SelfTest | None = None,
    server: ServerMetrics | None = None,
    logged: int = 0,
) -> BenchPoint:
    """Summarise one level; the audit says whether the client spoiled it, `logged` how often the engine's log told of a
    pause."""
    samples, requests = Samples.of(streams), counts(streams, planned)
    wanted = None if level.users is None else min(level.users, planned)
    client = audit_report(audit, streams, samples, wanted, calibration)
    _, peak, window = in_flight(streams, wanted)
    rates = throughput(streams)
    well = [stream for stream in streams if stream.error is None]
    doubts = [stream.miscounted for stream in well if stream.miscounted]
    stops = find_pauses(streams)
    seen = pauses_seen(stops, logged)
    late_ttft, late_e2e = _from_intended(streams) if level.users is None else (Distribution(), Distribution())
    return BenchPoint(
        concurrency=level.users if level.users is not None else peak,
        rate_per_s=level.rate_per_s,
        requests=requests,
        requests_per_s=round(requests.ok / rates.duration_s, 4) if rates.duration_s else None,
        ttft_ms=summary(samples.ttft),
        tpot_ms=summary(samples.tpot),
        itl_ms=samples.itl.summary(),
        chunk_gap_ms=samples.chunk_gap.summary(),
        e2e_ms=summary(samples.e2e),
        from_intended_ttft_ms=late_ttft,
        from_intended_e2e_ms=late_e2e,
        output_tokens_per_s=rates.output_tokens_per_s,
        input_tokens_per_s=rates.input_tokens_per_s,
        total_tokens_per_s=rates.total_tokens_per_s,
        duration_s=rates.duration_s,
        steady=_calm(streams, window, stops),
        goodput=goodput(streams, slo or {}, planned),
        input_lengths=asked_and_got((s.wanted_input, s.input_tokens) for s in well),
        output_lengths=asked_and_got((s.wanted_output, s.output_tokens) for s in well),
        short_ends=ends_of(well),
        unseen_tokens=sum(stream.hidden + stream.unsure for stream in well),
        tpot_range_ms=tpot_range(well),
        in_one_piece=sum(len(s.stamps) < 2 and s.output_tokens > 1 for s in well),
        miscounted=len(doubts),
        miscount=doubts[0] if doubts else None,
        client_bound=bool(client.reasons),
        client=client,
        server=server or {},
        pauses=seen,
        disturbed=is_disturbed(seen, rates.duration_s),
    )


def _calm(streams: Sequence[Stream], window: Window | None, stops: Sequence[Window]) -> SteadyWindow | None:
    """The steady window without the times in which the server stood still."""
    if not stops or window is None:
        return steady(streams, window)
    clock = CalmClock(stops, streams)
    return steady(clock.streams(streams), clock.window(window))


def _from_intended(streams: Sequence[Stream]) -> tuple[Distribution, Distribution]:
    ok = [stream for stream in streams if stream.error is None]
    ttft = [(stream.stamps[0] - stream.intended_ns) / NS_PER_MS for stream in ok if stream.stamps]
    return summary(ttft), summary([(stream.end_ns - stream.intended_ns) / NS_PER_MS for stream in ok])
