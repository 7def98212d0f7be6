"""What happened in a run, one line of events.jsonl each."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field

from overspan.schema.base import Frozen

State = Literal[
    "planned", "staged", "launching", "ready", "verified", "benched", "restarting", "stopping", "stopped", "failed"
]
MEANING: dict[State, str] = {
    "planned": "the plan is made and written",
    "staged": "image and weights are on every host",
    "launching": "the processes start and load the weights",
    "ready": "the endpoint gave a real token; it stays so where no answer is known, and nothing can be verified",
    "verified": "the known answers came, and `up` ends",
    "benched": "a measurement is in the run's folder",
    "restarting": "a process died, and the recipe asks for another start",
    "stopping": "answers in progress may end",
    "stopped": "every process has ended because somebody asked for it",
    "failed": "a process died or did not get ready; `overspan doctor` names the cause",
}
"""What each state says, for people."""

FINAL_STATES: frozenset[State] = frozenset({"stopped", "failed"})
SERVING_STATES: frozenset[State] = frozenset({"ready", "verified", "benched"})


class Event(Frozen):
    """One thing that happened. `state` is set when the run entered it; `process` and `host` where it happened."""

    at: AwareDatetime = Field(gt=datetime(1, 1, 2, tzinfo=UTC), lt=datetime(9999, 12, 30, tzinfo=UTC))
    message: str
    state: State | None = None
    process: str | None = None
    host: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)

    @property
    def settles(self) -> bool:
        """Whether nothing more is to come before `up` ends: it is verified, or nothing can be, or it is over."""
        return self.state == "verified" or self.state in FINAL_STATES or bool(self.data.get("settled"))
