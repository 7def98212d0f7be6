"""What every launcher can do. A launcher owns all processes of one run that it started, wherever they are."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.process import ProcessSpec

Health = Literal["running", "dead", "unknown"]


class Death(Frozen):
    """A process that is gone without being asked to go.

    `what` is the process itself or the vital child of it that died first, e.g. `VLLM::Worker (pid 3890)`. `code` is an
    exit status as the launcher saw it (negative for a signal) or null where nobody could see it. An engine's exit
    status is no verdict: vLLM ends with 0 after the death of its engine core.
    """

    process: str
    host: str
    ranks: list[int] = Field(default_factory=list)
    what: str
    code: int | None = None
    lines: list[str] = Field(default_factory=list, description="the last lines it wrote")
    died_at: float = Field(default_factory=time.time, description="seconds since the epoch, by this machine's clock")
    cause: str | None = Field(None, description="why, in words, where whoever ended it says so, e.g. Slurm")

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.cause is not None:
            return self.cause
        if self.code is None:
            return "is gone"
        return f"was ended by signal {-self.code}" if self.code < 0 else f"ended with {self.code}"

    @property
    def whose(self) -> str:
        """` (rank 1)`: the ranks that it held, for the end of a sentence."""
        if not self.ranks:
            return ""
        return f" (rank{'s' * (len(self.ranks) > 1)} {', '.join(map(str, self.ranks))})"


class Member(Frozen):
    """One process of the run as it is now. `unknown` means that its host does not answer, which is no death."""

    process: str
    host: str
    health: Health
    pid: int | None = None
    container: str | None = None
    memory_bytes: int | None = None
    started_at: float | None = Field(None, description="seconds since the epoch")


class Launcher(Protocol):
    """Starts, watches and ends the processes of one run. Not safe for use from several threads at once."""

    def start(self, spec: ProcessSpec, secrets: Mapping[str, str]) -> None:
        """Start one process; its output goes to `<logs>/<name>.log` on this machine.

        Args:
            spec: what to start.
            secrets: values for `spec.secrets`; they never enter an argv, a label or a log.

        Raises:
            OverspanError: it could not be started; names the host.
        """
        ...

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, str]) -> None:
        """Start several processes at once.

        Raises:
            OverspanError: the first that could not be started; `end` removes the others.
        """
        ...

    def waiting(self) -> str | None:
        """What the processes wait for before they start, e.g. a place in a queue; None once they may run."""
        ...

    def address_of(self, host: str) -> str | None:
        """Where a host of the plan is, once it runs, where the launcher chose it; None where the inventory tells."""
        ...

    def wait(self, timeout_s: float) -> list[Death]:
        """Wait until something died, at most `timeout_s`; deaths come in the order in which they happened."""
        ...

    def members(self) -> list[Member]:
        """Every process that was started, as it is now."""
        ...

    def end(self, grace_s: float) -> list[str]:
        """Ask every process to end, wait up to `grace_s`, then kill what is left, children included.

        Returns:
            What could not be ended and why, e.g. a host that does not answer; empty when nothing is left.
        """
        ...

    def close(self) -> None:
        """Let go of connections and followers; what runs goes on as far as it can."""
        ...
