"""What every supervisor does with its part of a run: it hears signals, launches, records and ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

import psutil

from overspan.launchers import proc
from overspan.launchers.base import Launcher
from overspan.schema.defaults import POLL_INTERVAL_S
from overspan.schema.plan import Plan
from overspan.store import run_secrets
from overspan.store.run_folder import SUPERVISOR, RunFolder

PARENT_DIED: Final = signal.SIGUSR1
"""What the supervisor gets when the guardian dies."""
FAILED_GRACE_S: Final = 2.0
"""After a death the others have nothing left to finish."""


class Signals:
    """What was asked of the supervisor from outside."""

    def __init__(self, guardian: int) -> None:
        self.guardian = guardian
        self.stop = False
        self.alone = os.getppid() != guardian
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(PARENT_DIED, self._on_alone)

    def ended(self) -> bool:
        """Whether somebody wants the run to end."""
        return self.stop or self.alone

    def sleep(self, seconds: float) -> None:
        """Wait, but not on after a signal."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended():
            time.sleep(POLL_INTERVAL_S)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop = True

    def _on_alone(self, number: int, frame: FrameType | None) -> None:
        self.alone = True


@dataclass
class Supervision:
    """A run's part on this machine, and the acts on it that a head's and a joined host's supervisor share."""

    run: RunFolder
    plan: Plan
    launcher: Launcher
    signals: Signals

    def launch(self) -> None:
        """Start every process of this part."""
        self.run.append("launching", state="launching")
        self.record()
        specs = self.run.processes()
        self.launcher.start_all(specs, run_secrets.read(self.run))
        for spec in specs:
            self.run.append(f"started {spec.name} on {spec.host}", process=spec.name, host=spec.host)
        self.record()

    def record(self) -> None:
        """Tell `status` and `stop` of the supervisor and its processes; before a launch too, which may take long."""
        me = psutil.Process()
        note = {
            "pid": me.pid,
            "started_at": me.create_time(),
            "guardian": self.signals.guardian,
            "session": os.getsid(0),
            "boot": proc.boot_id(),
            "members": [member.model_dump(mode="json") for member in self.launcher.members()],
        }
        self.run.record(SUPERVISOR, note)

    def stopped(self) -> None:
        """End as somebody asked for: streams in flight may end first."""
        self.run.append("stopping: streams in flight may end", state="stopping")
        # The engine's own drain ends a little before the grace, so that it is not cut off at its very end.
        left = self.launcher.end(self.plan.recipe.drain_timeout_s + 5.0)
        self.run.append("stopped" if not left else f"stopped, but: {'; '.join(left)}", state="stopped", left=left)

    def failed(
        self, what: str, lines: Sequence[str] = (), *, process: str | None = None, host: str | None = None
    ) -> None:
        """End at once, and say why."""
        left = self.launcher.end(FAILED_GRACE_S)
        self.run.append(what, state="failed", process=process, host=host, lines=list(lines), left=left)
