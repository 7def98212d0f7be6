"""What a host's Docker engine says about a run's containers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import ConfigDict, Field

from overspan.launchers import docker_commands
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.transport.base import Completed, Transport

QUERY_TIMEOUT_S: Final = 15.0
"""An engine that says nothing about a container for this long does not answer: asking takes 30 ms (measured here)."""

SIGNAL_BASE: Final = 128
"""An exit status above this is a signal's number plus it. Source: docker-run(1), EXIT STATUS, and POSIX shells."""

LAST_SIGNAL: Final = 64
"""SIGRTMAX. Source: signal(7)."""

_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")


class State(Frozen):
    """The engine's own record. Fields that are not named here are left out: engines add to them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str = Field(alias="Status")
    exit_code: int = Field(alias="ExitCode")
    oom_killed: bool = Field(False, alias="OOMKilled")
    error: str = Field("", alias="Error")
    pid: int = Field(alias="Pid")
    started: str = Field(alias="StartedAt")
    finished: str = Field(alias="FinishedAt")


class Container(Frozen):
    """One container as it is now.

    `titles`: its living processes' command lines by process id, as the host counts. A process that bears its parent's
    was forked and has not yet become what it will be: it is left out.
    """

    id: str
    name: str
    labels: dict[str, str]
    state: State
    titles: dict[int, str] = Field(default_factory=dict)
    memory_bytes: int | None = None

    @property
    def process(self) -> str:
        """The process of the run that it holds."""
        return self.labels.get(docker_commands.PROCESS_LABEL, self.name.lstrip("/"))

    @property
    def ranks(self) -> list[int]:
        """The ranks in it."""
        return [int(rank) for rank in self.labels.get(docker_commands.RANKS_LABEL, "").split(",") if rank]

    @property
    def alive(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state.status in ("created", "running", "paused", "restarting")

    @property
    def code(self) -> int:
        """Its exit status, negative for a signal."""
        code = self.state.exit_code
        return SIGNAL_BASE - code if SIGNAL_BASE < code <= SIGNAL_BASE + LAST_SIGNAL else code


def seconds(stamp: str) -> float | None:
    """An engine's timestamp (nanoseconds, UTC) in seconds since the epoch; None for its `never`, the year 1."""
    match = _STAMP.fullmatch(stamp)
    if match is None or stamp.startswith("0001"):
        return None
    whole = datetime.fromisoformat(match[1] + "+00:00").timestamp()
    return whole + float(f"0.{match[2] or 0}")


def containers_of(transport: Transport, run: str) -> list[str]:
    """The ids of a run's containers on one host, ended ones too."""
    return _ask(transport, docker_commands.list_containers(run)).stdout.split()


def look(transport: Transport, names: Sequence[str]) -> list[Container]:
    """Those of the containers that exist, as they are now, and what runs in them.

    Raises:
        HostUnreachable: the host does not answer.
        OverspanError: its Docker engine does not.
    """
    if not names:
        return []
    done = transport.run(docker_commands.inspect(names), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0 and not all("no such" in line.lower() for line in done.stderr.splitlines() if line.strip()):
        done.check("asking Docker for containers")
    found = [Container.model_validate(json.loads(line)) for line in done.stdout.splitlines() if line.strip()]
    return [_with_processes(transport, one) if one.state.status == "running" else one for one in found]


def _with_processes(transport: Transport, one: Container) -> Container:
    done = transport.run(docker_commands.top(one.id), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0:  # it ended since: the next look tells
        return one
    rows = [row.split(None, 4) for row in done.stdout.splitlines()[1:]]
    living = [row for row in rows if len(row) == 5 and not row[3].startswith("Z")]
    titles = {pid: title for pid, _, _, _, title in living}
    return one.with_(
        titles={int(pid): title for pid, parent, _, _, title in living if titles.get(parent) != title},
        memory_bytes=sum(int(kib) for _, _, kib, _, _ in living) * 1024,
    )


def last_lines(transport: Transport, container: str, count: int) -> list[str]:
    """The last lines of a container's output that say something."""
    done = transport.run(docker_commands.last_logs(container, count), timeout_s=QUERY_TIMEOUT_S)
    return [line for line in done.stdout.splitlines() if line.strip()]


def clock_offset(transport: Transport) -> float:
    """Seconds that a host's clock is ahead of this machine's, to within half of the time that asking takes."""
    before = time.time()
    text = transport.run(docker_commands.host_clock(), timeout_s=QUERY_TIMEOUT_S).check("reading the clock").stdout
    try:
        return float(text) - (before + time.time()) / 2
    except ValueError:
        raise OverspanError(f"{transport.host} does not tell its time", quote=text.strip()[:200]) from None


def _ask(transport: Transport, argv: list[str]) -> Completed:
    return transport.run(argv, timeout_s=QUERY_TIMEOUT_S).check("asking Docker for containers")
