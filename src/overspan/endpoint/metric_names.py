"""The names of an engine's metrics. Apart from their reader: an engine states them without what asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class MetricNames:
    """How an engine calls what Overspan reads: the engine's name, without a counter's `_total`, to Overspan's.

    Attributes:
        gauges: summed over their labels (the engines of a data-parallel group).
        shares: from 0 to 1; the mean over their labels.
        counters: summed over their labels; they only grow.
        labels: numbers that stand in a label: the metric's name to the label's name and Overspan's; the largest counts.
    """

    gauges: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, str]] = field(default_factory=dict)
