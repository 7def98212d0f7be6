"""Limits of latency that a person asks for (service level objectives): read from text, and kept or not."""

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError

METRICS: Final = ("ttft", "tpot", "itl", "e2e")
"""What a limit can be set on, each in milliseconds."""


class Slo(Frozen):
    """Limits that a layout should keep. Nobody predicts the other metrics."""

    ttft_ms: float | None = Field(None, gt=0)
    tpot_ms: float | None = Field(None, gt=0)

    def met_by(self, *, ttft_ms: float, tpot_ms: float) -> bool:
        """Whether these times keep every limit; a time that equals its limit does."""
        return (self.ttft_ms is None or ttft_ms <= self.ttft_ms) and (self.tpot_ms is None or tpot_ms <= self.tpot_ms)

    def times(self, factor: float) -> "Slo":
        """The limits, each so many times as high."""
        return Slo(ttft_ms=self.ttft_ms and self.ttft_ms * factor, tpot_ms=self.tpot_ms and self.tpot_ms * factor)

    def __str__(self) -> str:
        """`TTFT 2000 ms and TPOT 30 ms`."""
        held = [f"TTFT {self.ttft_ms:g} ms"] if self.ttft_ms else []
        return " and ".join(held + ([f"TPOT {self.tpot_ms:g} ms"] if self.tpot_ms else []))


def keeps(limits_ms: Mapping[str, float], took_ms: Mapping[str, float | None], *, missing_ms: float = 0.0) -> bool:
    """Whether the times keep each limit, both by metric.

    Args:
        limits_ms: as `parse_limits` gives them.
        took_ms: None for a metric that a request does not have, such as the TPOT of one token.
        missing_ms: what such a metric counts as; 0 keeps every limit, infinity none.
    """
    times = {metric: missing_ms if took is None else took for metric, took in took_ms.items()}
    return all(times[metric] <= limit for metric, limit in limits_ms.items())


def parse_limits(text: str | None, metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """Limits in milliseconds by metric, from text such as `ttft=2000,tpot=30`; none of None or empty text.

    Raises:
        InputError: not such a text, a metric that is not among `metrics`, or one given twice.
    """
    limits: dict[str, float] = {}
    for part in (text or "").split(",") if text else []:
        name, _, value = part.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if name not in metrics or not 0 < number < float("inf"):
            example = f"write it like ttft=2000,tpot=30 (ms; {', '.join(metrics)})"
            raise InputError(f"--slo {text}: '{part.strip()}' is not a limit", next=example)
        if name in limits:
            raise InputError(f"--slo {text}: {name} is given twice", next="leave one of them out")
        limits[name] = number
    return limits


def parse_slo(text: str | None) -> Slo:
    """Limits on what the planner predicts: TTFT and TPOT.

    Raises:
        InputError: see `parse_limits`.
    """
    return Slo(**{f"{name}_ms": limit for name, limit in parse_limits(text, ("ttft", "tpot")).items()})
