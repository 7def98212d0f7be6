"""What every supervisor does with its part of a run: hear signals, launch, record, end."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType
from typing import Final

import psutil

from overspan.launchers import proc
from overspan.launchers.base import Launcher
from overspan.schema.defaults import POLL_INTERVAL_S
from overspan.schema.plan import Plan
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder

RECORD: Final = "supervisor.json"
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


def launch(run: RunFolder, launcher: Launcher, guardian: int) -> None:
    """Start every process of this run."""
    run.append("launching", state="launching")
    record(run, launcher, guardian)
    specs = run.processes()
    launcher.start_all(specs, run_secrets.read(run))
    for spec in specs:
        run.append(f"started {spec.name} on {spec.host}", process=spec.name, host=spec.host)
    record(run, launcher, guardian)


def record(run: RunFolder, launcher: Launcher, guardian: int) -> None:
    """Where `status` and `stop` find the supervisor and its processes; before the launch too, which may take long."""
    me = psutil.Process()
    note = {
        "pid": me.pid,
        "started_at": me.create_time(),
        "guardian": guardian,
        "session": os.getsid(0),
        "boot": proc.boot_id(),
        "members": [member.model_dump(mode="json") for member in launcher.members()],
    }
    run.record(RECORD, note)


def stopped(run: RunFolder, plan: Plan, launcher: Launcher) -> None:
    """End as somebody asked for: streams in flight may end first."""
    run.append("stopping: streams in flight may end", state="stopping")
    # The engine's own drain ends a little before the grace, so that it is not cut off at its very end.
    left = launcher.end(plan.recipe.drain_timeout_s + 5.0)
    run.append("stopped" if not left else f"stopped, but: {'; '.join(left)}", state="stopped", left=left)


def failed(
    run: RunFolder,
    launcher: Launcher,
    what: str,
    lines: list[str],
    *,
    process: str | None = None,
    host: str | None = None,
) -> None:
    """End at once, and say why."""
    left = launcher.end(FAILED_GRACE_S)
    run.append(what, state="failed", process=process, host=host, lines=lines, left=left)
