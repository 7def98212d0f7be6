"""What happened in a run, one line of events.jsonl each."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from overspan.schema.base import Frozen

State = Literal[
    "planned", "staged", "launching", "ready", "verified", "benched", "restarting", "stopping", "stopped", "failed"
]
FINAL_STATES: frozenset[State] = frozenset({"stopped", "failed"})
SERVING_STATES: frozenset[State] = frozenset({"ready", "verified", "benched"})


class Event(Frozen):
    """One thing that happened. `state` is set when the run entered it; `process` and `host` where it happened."""

    at: datetime
    message: str
    state: State | None = None
    process: str | None = None
    host: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)
