"""What a loop writes down about itself while it runs; `audit` makes a verdict of it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field


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
