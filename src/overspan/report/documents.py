"""What a report is made from: the documents of a run's folder, loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from overspan.schema.event import Event, State
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.workload import AnsweredRequest, BenchPoint, BenchResult, Distribution

METRICS: Final = {
    "ttft_ms": ("TTFT", "time to the first token"),
    "tpot_ms": ("TPOT", "time per output token after the first, mean of a request"),
    "itl_ms": ("ITL", "gap between one token and the next"),
    "e2e_ms": ("E2E", "whole request"),
}
"""The latencies of a request, by the name that requests-*.jsonl and bench.json give them."""

Curve = list[tuple[float, float]]
"""A cumulative distribution: (milliseconds, percent of the sample at or below it), rising."""

CURVE_STEPS: Final = 200
"""Points of a curve at most: finer than a screen shows."""


@dataclass(frozen=True)
class RunDocuments:
    """The documents of one run. What is None or empty has not been written; the report says so.

    Args:
        name: the run's name, as its commands take it.
        benches: which bench of several is shown, and which are left out; empty where there was one.
        latencies: by what `level` says of a point, then by metric: the curves read from requests-*.jsonl.
    """

    name: str
    plan: Plan
    processes: Sequence[ProcessSpec] = ()
    events: Sequence[Event] = ()
    findings: Sequence[Finding] | None = None
    bench: BenchResult | None = None
    benches: str = ""
    latencies: Mapping[int | str, Mapping[str, Curve]] = field(default_factory=dict)

    @property
    def state(self) -> State | None:
        """The state that the run entered last."""
        return next((event.state for event in reversed(self.events) if event.state), None)

    @property
    def gpus_used(self) -> int:
        """GPUs that hold a rank; 0 on CPUs."""
        return len({(place.host, gpu) for place in self.plan.placements for gpu in place.gpus})

    @property
    def points(self) -> list[BenchPoint]:
        """Measured points by rising concurrency."""
        return sorted(self.bench.points, key=lambda point: point.concurrency) if self.bench else []

    def level(self, point: BenchPoint) -> int | str:
        """What tells a point from the others, and names its file of requests."""
        return self.bench.level(point) if self.bench else point.concurrency

    @property
    def summarised(self) -> list[str]:
        """Metrics of which only a summary is known at some point: requests-*.jsonl does not hold them."""
        return [
            label
            for metric, (label, _) in METRICS.items()
            if any(
                getattr(point, metric).p50 is not None and not self.latencies.get(self.level(point), {}).get(metric)
                for point in self.points
            )
        ]

    def curve(self, point: BenchPoint, metric: str) -> Curve:
        """A metric's distribution at one point: from its requests where they were kept, else from the summary."""
        curve = self.latencies.get(self.level(point), {}).get(metric)
        return curve if curve else summary_curve(getattr(point, metric))


def summary_curve(distribution: Distribution) -> Curve:
    """The percentiles that a summary has, as a coarse curve."""
    known = {50: distribution.p50, 90: distribution.p90, 95: distribution.p95, 99: distribution.p99}
    return [(value, float(percent)) for percent, value in known.items() if value is not None]


def request_curves(requests: Iterable[AnsweredRequest | None]) -> dict[str, Curve]:
    """Latency distributions of the requests that ended well; a failed one is None.

    Values are kept to three significant figures, so that memory is bounded however many tokens there were.
    """
    samples: dict[str, Counter[float]] = {metric: Counter() for metric in METRICS}
    for request in (each for each in requests if each is not None):
        for metric, sample in samples.items():
            value = getattr(request, metric)
            values = value if isinstance(value, list) else [] if value is None else [value]
            sample.update(float(f"{item:.3g}") for item in values)
    return {metric: _curve(sample) for metric, sample in samples.items()}


def _curve(sample: Counter[float]) -> Curve:
    total = sum(sample.values())
    curve: Curve = []
    seen, drawn = 0, -1
    for value in sorted(sample):
        seen += sample[value]
        step = seen * CURVE_STEPS // total
        if step > drawn:
            curve.append((value, 100.0 * seen / total))
            drawn = step
    return curve
