"""What the client says about itself: was it the bottleneck?"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from overspan.bench.load import PAUSE_NS, pauses
from overspan.bench.metrics import NS_PER_MS, Samples, Window, in_flight, summary
from overspan.bench.stream import Stream
from overspan.schema.workload import ClientAudit, MeanAndP99, SelfTest

CPU_LIMIT: Final = 0.9
"""Of one core: above it a loop has no slack left for a burst. Source: Overspan's choice, tested in benchmarks/."""

CONCURRENCY_LIMIT: Final = 0.98
"""Of what was asked, while requests were still to be sent."""

ERROR_LIMIT: Final = 0.02
"""Of TTFT or of the gap between chunks: the error that Overspan promises at 1,024 streams (issue 5)."""

CLOCK_LIMIT_MS: Final = 1.0
"""How far the system clock may be set during a run before its stamps are not trusted."""


@dataclass
class Audit:
    """What the loop knows about itself. Lags are nanoseconds from the kernel's stamp to the read."""

    started_ns: int = 0
    ended_ns: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    clock_drift_ns: int = 0
    reads: int = 0
    unstamped: int = 0
    batches: array[int] = field(default_factory=lambda: array("q"))
    lags: array[int] = field(default_factory=lambda: array("q"))
    opened: int = 0
    stale_retries: int = 0
    cancelled: bool = False
    shards: int = 1
    busiest_cpu_share: float | None = None


def audit_report(
    audit: Audit, streams: Sequence[Stream], samples: Samples, wanted: int | None, self_test: SelfTest | None = None
) -> ClientAudit:
    """The client's own numbers, and each reason why it spoiled the measurement (none: it did not).

    Args:
        audit: what the loop wrote down.
        streams: every request.
        samples: their times.
        wanted: the concurrency that was asked; None for an open loop.
        self_test: what a known server said of this client before; its reasons count.
    """
    share, peak, window = in_flight(streams, wanted)
    stamped = audit.reads > 0 and audit.unstamped <= audit.reads // 100
    cpu = audit.cpu_s / audit.wall_s if audit.wall_s else 0.0
    cpu = cpu if audit.busiest_cpu_share is None else audit.busiest_cpu_share
    tokens = sum(stream.output_tokens for stream in streams if stream.error is None)
    report = ClientAudit(
        processes=audit.shards,
        timestamps="kernel" if stamped else "user",
        kernel_to_user_lag_ms=_mean_and_p99(audit.lags),
        loop_turn_ms=_mean_and_p99(audit.batches),
        send_lag_ms=_mean_and_p99([s.send_ns - s.intended_ns for s in streams if s.send_ns]),
        concurrency_requested=wanted,
        concurrency_peak=peak,
        concurrency_share=None if share is None else round(share, 4),
        concurrency_share_paused=round(_paused(streams, window, wanted), 4),
        cpu_share=round(cpu, 4),
        cpu_s=round(audit.cpu_s, 4),
        cpu_s_per_1k_tokens=round(audit.cpu_s / tokens * 1000, 6) if tokens else None,
        connections_opened=audit.opened,
        stale_retries=audit.stale_retries,
        clock_step_ms=round(audit.clock_drift_ns / NS_PER_MS, 3),
    )
    reasons = [*_reasons(audit, samples, report, wanted), *(self_test.reasons if self_test else ())]
    return report.with_(reasons=reasons, **({"calibration": self_test} if self_test else {}))


def _mean_and_p99(nanoseconds: Sequence[int]) -> MeanAndP99:
    found = summary([ns / NS_PER_MS for ns in nanoseconds])
    return MeanAndP99(mean=found.mean, p99=found.p99)


def _paused(streams: Sequence[Stream], window: Window | None, wanted: int | None) -> float:
    """The share of the users' time that went by in pauses after the server refused or broke connections."""
    if window is None or not wanted:
        return 0.0
    pauses_seen = sum(pauses(s) and window.begin_ns <= s.end_ns <= window.end_ns for s in streams)
    return min(1.0, pauses_seen * PAUSE_NS / (window.end_ns - window.begin_ns) / wanted)


def _reasons(audit: Audit, samples: Samples, report: ClientAudit, wanted: int | None) -> list[str]:
    ttft, gap = summary(samples.ttft).p50, samples.chunk_gap.mean
    stamped = report.timestamps == "kernel"
    delay = (report.kernel_to_user_lag_ms if stamped else report.loop_turn_ms).p99 or 0.0
    late, share, cpu = report.send_lag_ms.p99, report.concurrency_share, report.cpu_share or 0.0
    reasons = []
    if cpu > CPU_LIMIT:
        reasons.append(f"the client used {cpu:.0%} of a core")
    # Users that wait for a server which broke their connection are no fault of the client.
    if share is not None and share + report.concurrency_share_paused < CONCURRENCY_LIMIT:
        reasons.append(f"only {share:.1%} of the {wanted} requests were in flight on average")
    if stamped and gap and delay > gap:
        reasons.append(f"reads came up to {delay:.1f} ms after their arrival, more than the gap of {gap:.1f} ms")
    if not stamped and ttft and delay > ERROR_LIMIT * ttft:
        reasons.append(f"without kernel timestamps a turn of {delay:.1f} ms spoils a TTFT of {ttft:.1f} ms")
    if not wanted and ttft and late and late > max(ERROR_LIMIT * ttft, 1.0):
        reasons.append(f"requests were sent up to {late:.1f} ms late")
    if abs(audit.clock_drift_ns) > CLOCK_LIMIT_MS * NS_PER_MS:
        reasons.append(f"the system clock was set by {audit.clock_drift_ns / NS_PER_MS:.1f} ms during the run")
    return reasons
