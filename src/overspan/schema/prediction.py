"""What is asked of a layout, and what it is predicted to give. Times are milliseconds of one token or one request."""

from typing import Literal

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.layout import Layout
from overspan.schema.slo import Slo
from overspan.schema.workload import Demand


class Interval(Frozen):
    """Where the true value lies with about 80 % probability."""

    low: float
    high: float


class Prediction(Frozen):
    """One layout under one demand: the sum of `terms` is `tpot_ms`."""

    layout: Layout
    demand: Demand
    gpus: int
    tpot_ms: float
    ttft_ms: float
    terms: dict[str, float]
    ttft_terms: dict[str, float]
    bound: str = Field(description="the largest term of TPOT")
    ceiling_tpot_ms: float = Field(description="all bytes of a step over all memory bandwidth, and nothing else")
    interval: Interval
    ttft_interval: Interval
    running: int = Field(description="requests at a time; fewer than asked for where the cache is full")
    basis: Literal["calibrated", "extrapolated"]
    notes: list[str] = Field(default_factory=list)

    def meets(self, slo: Slo) -> bool:
        """Whether every limit is kept."""
        return slo.met_by(ttft_ms=self.ttft_ms, tpot_ms=self.tpot_ms)

    @property
    def output_tokens_per_s(self) -> float:
        """Tokens generated a second over all users."""
        request_s = (self.ttft_ms + self.demand.osl * self.tpot_ms) / 1e3
        return self.demand.concurrency * self.demand.osl / request_s

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Output tokens a second for each GPU used."""
        return self.output_tokens_per_s / self.gpus

    @property
    def interactivity(self) -> float:
        """Tokens a second that one user sees."""
        return 1e3 / self.tpot_ms


class Constant(Frozen):
    """A number that physics leaves open, with how well it is known."""

    value: float = Field(ge=0)
    sigma: float = Field(gt=0)
    unit: str
    term: str = Field("", description="the part of a step that its time is told as")
    source: str = Field(min_length=1)


class Calibration(Frozen):
    """The constants of the predictor, and what they were fitted on."""

    constants: dict[str, Constant]
    families: list[str] = Field(description="hardware families with measurements behind the constants")
    architectures: list[str] = Field(default_factory=list, description="models with measurements behind the constants")
    scatter: float = Field(gt=0, description="relative error that stays on kinds that were not fitted")
    ttft_scatter: float = Field(gt=0)
    source: str
