"""What a host's Docker engine says of a run's containers: how they are, what they write, and which died first."""

from __future__ import annotations

import fnmatch
import io
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ConfigDict, Field

from overspan.launchers import docker_commands as commands
from overspan.launchers.base import LAST_LINES, Death, exit_code
from overspan.schema.base import Frozen
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.schema.process import ProcessSpec

if TYPE_CHECKING:
    from overspan.transport.base import Transport

QUERY_TIMEOUT_S: Final = 15.0
"""An engine that says nothing about a container for this long does not answer: asking takes 30 ms (measured here)."""

LOOK_INTERVAL_S: Final = 0.5
"""How often each host is asked: two commands of about 30 ms each, well inside the 5 s in which a death must be told."""

CLOCK_QUESTIONS: Final = 3
"""On a busy machine one answer alone may take ten times as long as usual."""

SETTLE_S: Final = 2.0
"""How long a death waits for the other hosts' answers, so that the first to die is named first."""

RETRY_S: Final = 1.0
"""Between two tries to reach a host that does not answer; connecting has a time limit of its own."""

_STAMPED: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z) (.*)", re.DOTALL)


class ContainerState(Frozen, defer_build=True):
    """The engine's own record. Fields that are not named here are left out: engines add to them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: str = Field(alias="Status")
    exit_code: int = Field(alias="ExitCode")
    oom_killed: bool = Field(False, alias="OOMKilled")
    error: str = Field("", alias="Error")
    pid: int = Field(alias="Pid")
    started: str = Field(alias="StartedAt")
    finished: str = Field(alias="FinishedAt")


class Container(Frozen, defer_build=True):
    """One container as it is now.

    `titles`: its living processes' command lines by process id, as the host counts. A process that bears its parent's
    was forked and has not yet become what it will be: it is left out.
    """

    id: str
    name: str
    labels: dict[str, str]
    state: ContainerState
    titles: dict[int, str] = Field(default_factory=dict)
    memory_bytes: int | None = None

    @property
    def process(self) -> str:
        """The process of the run that it holds."""
        return self.labels.get(commands.PROCESS_LABEL, self.name.lstrip("/"))

    @property
    def alive(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state.status in ("created", "running", "paused", "restarting")


def seconds(stamp: str) -> float | None:
    """An engine's timestamp (nanoseconds, UTC) in seconds since the epoch; None for its `never`, the year 1."""
    return None if stamp.startswith("0001") else datetime.fromisoformat(stamp).timestamp()


def containers_of(transport: Transport, run: str) -> list[str]:
    """The ids of a run's containers on one host, ended ones too."""
    listed = transport.run(commands.list_containers(run), timeout_s=QUERY_TIMEOUT_S)
    return listed.check("asking Docker for containers").stdout.split()


def look(transport: Transport, names: Sequence[str]) -> list[Container]:
    """Those of the containers that exist, as they are now, and what runs in them.

    Raises:
        HostUnreachable: the host does not answer.
        OverspanError: its Docker engine does not.
    """
    if not names:
        return []
    done = transport.run(commands.inspect(names), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0 and not all("no such" in line.lower() for line in done.stderr.splitlines() if line.strip()):
        done.check("asking Docker for containers")
    found = [Container.model_validate(json.loads(line)) for line in done.stdout.splitlines() if line.strip()]
    return [_with_processes(transport, one) if one.state.status == "running" else one for one in found]


def _with_processes(transport: Transport, one: Container) -> Container:
    done = transport.run(commands.top(one.id), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0:  # it ended since: the next look tells
        return one
    rows = [row.split(None, 4) for row in done.stdout.splitlines()[1:]]
    living = [row for row in rows if len(row) == 5 and not row[3].startswith("Z")]
    titles = {pid: title for pid, _, _, _, title in living}
    return one.with_(
        titles={int(pid): title for pid, parent, _, _, title in living if titles.get(parent) != title},
        memory_bytes=sum(int(kib) for _, _, kib, _, _ in living) * 1024,
    )


def clock_offset(transport: Transport) -> float:
    """Seconds that a host's clock is ahead of this machine's, by the quickest of a few answers.

    It is right to within half of the time that asking takes, which is the same way on all hosts: what remains between
    two hosts is smaller than that.
    """
    return min(_clock(transport) for _ in range(CLOCK_QUESTIONS))[1]


def _clock(transport: Transport) -> tuple[float, float]:
    """How long the answer took, and the offset by it, in seconds."""
    before = time.time()
    text = transport.run(["date", "-u", "+%s.%N"], timeout_s=QUERY_TIMEOUT_S).check("reading the clock").stdout
    after = time.time()
    try:
        return after - before, float(text) - (before + after) / 2
    except ValueError:
        raise OverspanError(f"the clock of {transport.host} cannot be read", quote=text.strip()[:200]) from None


@dataclass
class Watched:
    """A container that was started. `vital` are the children seen in it that must live, by process id."""

    spec: ProcessSpec
    container: str
    vital: dict[int, str] = field(default_factory=dict)
    died_at: float | None = None
    code: int | None = None
    what: str = ""
    dead: bool = False

    def take_in(self, now: Container | None, clock_ahead_s: float) -> None:
        """See whether it lives; `now` is None when the host's engine does not know it any more."""
        if self.died_at is not None:
            return
        if now is None:
            self.died_at, self.what = time.time(), f"{self.spec.name} (container {self.container[:12]}, removed)"
        elif not now.alive:
            finished = seconds(now.state.finished)
            self.died_at = time.time() if finished is None else finished - clock_ahead_s
            self.code = exit_code(now.state.exit_code)
            why = ", out of memory" if now.state.oom_killed else f", {now.state.error}" if now.state.error else ""
            self.what = f"{self.spec.name} (container {self.container[:12]}{why})"
        elif now.titles:
            self._look_for_vital(now.titles)

    def _look_for_vital(self, titles: Mapping[int, str]) -> None:
        lost = [pid for pid in self.vital if pid not in titles]
        if lost:
            self.died_at, self.what = time.time(), f"{self.vital[lost[0]]} (pid {lost[0]})"
        for pid, title in titles.items():
            if any(fnmatch.fnmatchcase(title, pattern) for pattern in self.spec.vital_titles):
                self.vital[pid] = title


@dataclass
class DockerHost:
    """A host: the way to it, and the question that it was asked last."""

    name: str
    transport: Transport
    clock_ahead_s: float = 0.0
    asked: Future[list[Container]] | None = None
    asked_at: float = 0.0
    heard_at: float = 0.0
    """When the last question was asked that it has answered, or failed to."""


class Watcher:
    """Asks each host on its own, so that one that does not answer holds up nobody."""

    def __init__(self, hosts: Mapping[str, DockerHost], watched: Mapping[str, Watched], pool: Executor) -> None:
        self._hosts = hosts
        self._watched = watched
        self._pool = pool

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`."""
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            self._ask([host for host in self._of_interest() if now - host.asked_at >= LOOK_INTERVAL_S])
            self._hear(min(deadline, now + LOOK_INTERVAL_S))
            if self._fresh_dead():
                self._settle()
                return self._deaths()
            if time.monotonic() >= deadline:
                return []

    def _of_interest(self) -> list[DockerHost]:
        names = {one.spec.host for one in self._watched.values() if not one.dead}
        return [host for host in self._hosts.values() if host.name in names]

    def _fresh_dead(self) -> list[Watched]:
        return [one for one in self._watched.values() if one.died_at is not None and not one.dead]

    def _ask(self, hosts: list[DockerHost]) -> None:
        for host in hosts:
            if host.asked is None:
                ids = [one.container for one in self._watched.values() if one.spec.host == host.name and not one.dead]
                host.asked_at = time.monotonic()
                host.asked = self._pool.submit(look, host.transport, ids)

    def _hear(self, until: float) -> None:
        """Wait for an answer, at most `until`, and take in what has come."""
        asked = [host for host in self._hosts.values() if host.asked is not None]
        left = max(0.0, until - time.monotonic())
        if not asked:
            time.sleep(min(left, LOOK_INTERVAL_S / 10))
        wait([host.asked for host in asked if host.asked is not None], timeout=left, return_when=FIRST_COMPLETED)
        for host in asked:
            if host.asked is not None and host.asked.done():
                self._take_in(host, host.asked)
                host.asked, host.heard_at = None, host.asked_at

    def _take_in(self, host: DockerHost, answer: Future[list[Container]]) -> None:
        try:
            found = {one.id: one for one in answer.result()}
        except OverspanError:
            return  # the host does not answer: its processes are unknown, which `members` says
        for one in self._watched.values():
            if one.spec.host == host.name and not one.dead:
                one.take_in(found.get(one.container), host.clock_ahead_s)

    def _settle(self) -> None:
        """Hear every host once more, so that one that saw an earlier death can say so."""
        start = time.monotonic()
        while time.monotonic() < start + SETTLE_S:
            behind = [host for host in self._of_interest() if host.heard_at < start]
            if not behind:
                return
            self._ask(behind)
            self._hear(start + SETTLE_S)

    def _deaths(self) -> list[Death]:
        fresh = sorted(self._fresh_dead(), key=lambda one: one.died_at or 0.0)
        for one in fresh:
            one.dead = True
        return [self._death(one) for one in fresh]

    def _death(self, one: Watched) -> Death:
        try:
            said = self._hosts[one.spec.host].transport.run(
                commands.last_logs(one.container, LAST_LINES), timeout_s=QUERY_TIMEOUT_S
            )
            lines = [line for line in said.stdout.splitlines() if line.strip()]
        except OverspanError as error:
            lines = [f"(its last lines cannot be read: {error.what})"]
        return Death(
            process=one.spec.name,
            host=one.spec.host,
            ranks=one.spec.ranks,
            what=one.what,
            code=one.code,
            lines=lines,
            died_at=one.died_at or time.time(),
        )


class Follower(threading.Thread):
    """Writes a container's lines to the end of a file, each once, until the container has ended or `stop` is called.

    Docker gives each line with the time at which it was written. After a lost connection the follower asks for what
    came since the last one, and leaves out those of that very time that it has.
    """

    def __init__(self, transport: Transport, container: str, log: Path) -> None:
        super().__init__(name=f"logs of {container}", daemon=True)
        self._transport = transport
        self._container = container
        self._log = log
        self._since: str | None = None
        self._same_time = 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Do not connect again."""
        self._stopped.set()

    def run(self) -> None:
        """See `threading.Thread.run`."""
        with io.FileIO(self._log, "a") as file:
            while not self._stopped.is_set():
                try:
                    self._follow(file)
                except HostUnreachable:
                    self._stopped.wait(RETRY_S)
                    continue
                except OverspanError:
                    return  # Docker gives no more of it, as of a container that was removed
                return

    def _follow(self, file: io.FileIO) -> None:
        lines = self._transport.lines(commands.logs(self._container, since=self._since))
        for text in self._fresh(lines):
            file.write(text.encode(errors="replace") + b"\n")

    def _fresh(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines that were not seen before. One without a time goes on with the line before it (a `\\r`)."""
        skip, last, wanted = self._same_time, self._since, False
        for line in lines:
            match = _STAMPED.fullmatch(line)
            if match is None:
                if wanted:
                    yield line
                continue
            wanted = not (skip and match[1] == last)
            if not wanted:
                skip -= 1
                continue
            self._same_time = self._same_time + 1 if match[1] == self._since else 1
            self._since = match[1]
            yield match[2]
