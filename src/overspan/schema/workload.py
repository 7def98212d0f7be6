"""What is asked of an endpoint, and what it gave. Times are milliseconds, rates are per second."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from overspan.schema.base import Frozen


class Workload(Frozen):
    """A closed-loop load at each of some concurrencies."""

    concurrency: list[int] = Field(min_length=1)
    requests: int = Field(ge=1, description="requests at each concurrency")
    input_tokens: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    endpoint: Literal["chat", "completions"] = "chat"
    seed: int = 0
    timeout_s: float = Field(600.0, gt=0)
    warmup: int = Field(0, ge=0, description="requests before each point that are not counted")


class Distribution(Frozen):
    """A sample's summary; every field is null when there was no sample."""

    mean: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None


class RequestCounts(Frozen):
    """Every planned request is ok or failed; `errors` counts the failed ones by kind."""

    planned: int
    ok: int
    failed: int
    errors: dict[str, int] = Field(default_factory=dict)


class BenchPoint(Frozen):
    """What one concurrency gave."""

    concurrency: int
    requests: RequestCounts
    ttft_ms: Distribution
    tpot_ms: Distribution
    itl_ms: Distribution
    e2e_ms: Distribution
    chunk_gap_ms: Distribution = Distribution()
    output_tokens_per_s: float | None
    input_tokens_per_s: float | None = None
    total_tokens_per_s: float | None = None
    duration_s: float | None = None
    client_bound: bool = False
    client: dict[str, Any] = Field(default_factory=dict)
    server: dict[str, Any] = Field(default_factory=dict)


class BenchResult(Frozen):
    """bench.json: the load, where it went and each point."""

    base_url: str
    model: str
    started_at: str
    workload: Workload
    points: list[BenchPoint]
    overspan_version: str
    notes: list[str] = Field(default_factory=list)
