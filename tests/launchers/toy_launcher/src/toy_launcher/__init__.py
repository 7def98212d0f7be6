"""The launcher `toy`: a session of this machine for each process, remembered in a file, so that any shell finds it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

import psutil

from overspan.launchers.base import LAST_LINES, Death, Launcher, Member, require_secrets
from overspan.launchers.tail import last_lines
from overspan.schema.errors import OverspanError
from overspan.schema.launcher_traits import LauncherTraits
from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import Secret

NOTE = "toy-launcher.json"


class ToyLauncher(Launcher):
    """What it starts lives as long as it likes; the file in the run's folder says what that is."""

    # No containers, the hosts are those of the inventory, and what is started outlives the supervisor.
    traits = LauncherTraits()

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        """See `Launcher.start_all`."""
        require_secrets(specs, secrets)
        started = []
        for spec in specs:
            env = {**os.environ, **spec.env, **{name: secrets[name].get_secret_value() for name in spec.secrets}}
            with self.run.log(spec.name).open("ab") as log:
                try:
                    child = subprocess.Popen(
                        spec.argv, env=env, cwd=spec.cwd, stdin=subprocess.DEVNULL, stdout=log,
                        stderr=subprocess.STDOUT, start_new_session=True,
                    )  # fmt: skip
                except OSError as error:
                    raise OverspanError(f"process {spec.name} could not start on {spec.host}: {error}") from None
            born = psutil.Process(child.pid).create_time()
            started.append(Member(process=spec.name, host=spec.host, health="running", pid=child.pid, started_at=born))
            self.run.record(NOTE, {"started": [member.model_dump() for member in started]})

    def members(self) -> list[Member]:
        """See `Launcher.members`. Whoever started them: so `look` needs nothing of its own."""
        started = [Member.model_validate(each) for each in self.run.note(NOTE).get("started", [])]
        return [member.with_(health="running" if _living(member) else "dead") for member in started]

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`. The file knows a death that was told, so that none is told twice."""
        deadline = time.monotonic() + timeout_s
        while not (dead := [member for member in self.members() if member.health == "dead"]):
            if time.monotonic() > deadline:
                return []
            time.sleep(0.1)
        living = [member.model_dump() for member in self.members() if member not in dead]
        self.run.record(NOTE, {"started": living})
        return [
            Death(
                process=member.process,
                host=member.host,
                what=f"{member.process} (pid {member.pid})",
                lines=last_lines(self.run.log(member.process), LAST_LINES),
            )
            for member in dead
        ]

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`."""
        left = [process for member in self.members() if (process := _living(member))]
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    os.killpg(process.pid, number)
            deadline = time.monotonic() + patience_s
            while (left := [process for process in left if _lives(process)]) and time.monotonic() < deadline:
                time.sleep(0.05)
        if not left:
            self.run.record(NOTE, {"started": []})
        return [f"pid {process.pid} does not end" for process in left]


def _living(member: Member) -> psutil.Process | None:
    """The very process that was started, not a later one of the same id."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(member.pid)
        if abs(process.create_time() - (member.started_at or 0.0)) < 2.0 and _lives(process):
            return process
    return None


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
