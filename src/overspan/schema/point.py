"""One point of a sweep, everything in it derived from the plan: nothing is restated beside it."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_serializer

from overspan.schema.base import Frozen
from overspan.schema.finding import Finding
from overspan.schema.recipe import ArgValue
from overspan.schema.sweep import Load
from overspan.schema.topology import RoleName
from overspan.schema.workload import BenchPoint

TokenKind = Literal["total", "output", "input"]
Rates = dict[TokenKind, float | None]
"""Tokens a second; None where a bench did not count them."""
PointState = Literal["planned", "ok", "failed", "missing"]


class PointRole(Frozen):
    """The workers of one role at a point."""

    workers: int
    layout: str
    ranks: int = Field(description="of all its workers")
    gpus: int = Field(description="of all its workers; 0 on CPUs")
    nodes: list[str]
    engine_args: dict[str, ArgValue]
    env: dict[str, str]
    flags: list[str] = Field(description="as the engine takes them")


class Command(Frozen):
    """One process of a deployment, as a person would start it."""

    process: str
    host: str
    command: str


class Estimate(Frozen):
    """What the planner expects of a point, or in `abstained` why nothing. What is not known is left out."""

    tpot_ms: float | None = None
    ttft_ms: float | None = None
    output_tokens_per_s: float | None = None
    interactivity: float | None = Field(None, description="tokens a second for each user")
    interval: dict[Literal["tpot_ms", "ttft_ms"], tuple[float, float]] | None = None
    bound: str | None = Field(None, description="what limits the point")
    prefill_busy: float | None = Field(None, description="share of the time that prefill workers are busy")
    basis: str | None = Field(None, description="what the numbers stand on")
    abstained: str | None = None

    @model_serializer(mode="wrap")
    def _said(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in whole(self).items() if value is not None}


class Point(Frozen):
    """What is measured, on what, and what the planner expects. GPUs reserved are those of every node that it takes."""

    id: str
    sweep: str
    scenario: str
    isl: int
    osl: int
    topology: str
    name: str = ""
    concurrency: int
    nodes: int
    ranks: int
    gpus_used: int
    gpus_reserved: int
    roles: dict[RoleName, PointRole]
    load: Load
    requests: int
    warmup: int
    deployment: str
    recipe_hash: str
    machines: str = Field("", description="digest of what it is placed on: measured elsewhere it is another number")
    model: str
    engine: str
    image: str | None = None
    estimate: Estimate = Estimate()
    notes: list[str] = Field(default_factory=list)
    commands: list[Command] = Field(default_factory=list)

    @property
    def full_id(self) -> str:
        """The id behind its sweep's name: `m3-gb200-1k1k/1k1k/tep8/c32`."""
        return f"{self.sweep}/{self.id}"


class Derived(Frozen):
    """What follows from a measurement and its point. Rates are tokens a second, over GPUs or, on CPUs, over ranks."""

    tokens_per_s: Rates
    per_gpu: Rates = Field(description="over the GPUs used")
    per_gpu_reserved: Rates = Field(description="over the GPUs of every node taken")
    per_role: dict[RoleName, Rates] = Field(description="input for GPUs that prefill, output for those that decode")
    unit: Literal["GPU", "rank"]
    interactivity: float | None = Field(description="tokens a second for each user: 1000 / median TPOT")
    predicted_to_measured: dict[str, float] = Field(description="by metric, where both are known")

    def of_role(self, role: RoleName, kind: TokenKind) -> float | None:
        """The rate of the GPUs that prefill or decode; those that do both count as each."""
        return self.per_role.get(role, self.per_role.get("aggregated", {})).get(kind)


class PointResult(Frozen):
    """How one point ended: a line of results.jsonl. `point` says what was run; rates and ratios are in `derived`."""

    point: Point
    state: Literal["ok", "failed"]
    reason: str = ""
    run: str | None = Field(None, description="id of the run that served it")
    engine_version: str | None = None
    started_at: str
    ended_at: str
    verification: list[Finding] = Field(default_factory=list)
    measured: BenchPoint | None = None
    derived: Derived | None = None
    notes: list[str] = Field(default_factory=list)
    overspan_version: str

    @field_validator("derived", mode="before")
    @classmethod
    def _none_if_empty(cls, value: Any) -> Any:
        return value or None

    @field_serializer("derived")
    def _empty_if_none(self, value: Derived | None) -> Derived | dict[str, Any]:
        return value or {}

    @property
    def doubtful(self) -> bool:
        """Whether the point is not ok, or its numbers are the load generator's or those of pauses."""
        seen = self.measured
        return self.state != "ok" or (seen is not None and (seen.client_bound or seen.disturbed))
