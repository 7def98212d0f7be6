"""One point of a sweep, everything in it derived from the plan: nothing is restated beside it."""

from typing import Any, Literal

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.finding import Finding
from overspan.schema.recipe import ArgValue
from overspan.schema.sweep import Load
from overspan.schema.topology import RoleName
from overspan.schema.workload import BenchPoint

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
    estimate: dict[str, Any] = Field(default_factory=dict, description="of the planner; `abstained` holds why not")
    notes: list[str] = Field(default_factory=list)
    commands: list[Command] = Field(default_factory=list)


class Result(Frozen):
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
    derived: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    overspan_version: str
