"""One allocation a run, one step a process. Slurm owns the job; any shell finds it again by its name.

Needs a folder on storage that the login node and the nodes share: the steps' arguments go there, and from there their
output and ends come back, read a few times a second over the one way to the login node.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from overspan.launchers import slurm_commands as commands
from overspan.launchers.base import Death, Member
from overspan.launchers.slurm_state import (
    QUERY_TIMEOUT_S,
    Job,
    Node,
    describe,
    find_jobs,
    find_steps,
    lost_nodes,
    nodes_of,
)
from overspan.launchers.tail import last_lines
from overspan.schema.errors import HostUnreachable, InputError, OverspanError
from overspan.schema.inventory import Host, Slurm
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport

READ_INTERVAL_S: Final = 0.5
"""How often the shared folder is read: a few small files, well inside the 5 s in which a death must be told."""

ASK_INTERVAL_S: Final = 2.0
"""How often the controller is asked. It serves a whole site: less often than the files, and often enough."""

SETTLE_S: Final = 20.0
"""How long an end waits for the controller's verdict: a failing node is COMPLETING until Slurm is done with it."""

STOP_MARGIN_S: Final = 90.0
"""What Slurm may need to end a job: KillWait is 30 s by default, and an epilog comes after it."""

LAST_LINES: Final = 12
SIGNAL_BASE: Final = 128
"""srun gives 128 + N for a task that signal N ended. Source: srun(1), EXIT VALUES, and POSIX shells."""

_END: Final = re.compile(r"(?P<at>[0-9]+(\.[0-9]+)?) (?P<code>[0-9]+) (?P<name>.+)")
"""What `tell_end` of batch.sh writes: seconds since the epoch, the step's exit code, the step."""
JOB: Final = "job"
"""The name of the job itself among the processes: its log is the batch script's output."""


class SlurmLauncher:
    """See `Launcher`. `hosts` are the plan's hosts that hold processes, in order."""

    def __init__(
        self,
        run: str,
        slurm: Slurm,
        hosts: Sequence[Host],
        login: Transport,
        *,
        logs: Path,
        copy: commands.Copy | None = None,
    ) -> None:
        self._run, self._slurm, self._login, self._logs, self._copy = run, slurm, login, logs, copy
        self._hosts = list(hosts)
        self._specs: dict[str, ProcessSpec] = {}
        self._folder: str | None = None
        self._offsets: dict[str, int] = {}
        self._nodes: dict[str, Node] = {}
        self._job: Job | None = None
        self._problem: str | None = None
        self._read_at = self._asked_at = 0.0
        self._pending_ends = b""
        self._ends: list[tuple[float, int, str]] = []
        self._told = False

    # start -----------------------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec, secrets: Mapping[str, str]) -> None:
        """See `Launcher.start`."""
        self.start_all([spec], secrets)

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, str]) -> None:
        """Submit one job with a step for each process. It may wait in a queue: see `waiting`.

        Raises:
            InputError: Slurm refuses the submission; quotes it.
            OverspanError: the shared folder cannot be written.
        """
        missing = [name for spec in specs for name in spec.secrets if name not in secrets]
        if missing:
            raise OverspanError(f"the run needs {', '.join(missing)}, which is not set")
        names = [host.name for host in self._hosts]
        containers = {host.name: host.container for host in self._hosts}
        packed = commands.files(specs, self._run, names, containers, secrets=secrets, copy=self._copy)
        folder = self.folder
        self._login.run(commands.receive(folder), stdin=packed, timeout_s=QUERY_TIMEOUT_S).check(
            f"writing {folder} on the shared storage"
        )
        done = self._login.run(self.submission(folder), timeout_s=QUERY_TIMEOUT_S)
        if done.code != 0:
            self._login.run(commands.forget(folder), timeout_s=QUERY_TIMEOUT_S)
            raise InputError("Slurm refuses the job", quote=_refusal(done.stderr), next=_edit_hint())
        self._specs = {spec.name: spec for spec in specs}
        self._begin_anew(done.stdout.strip().split(";")[0])

    def check(self) -> None:
        """Ask, before anything is copied or queued, whether Slurm would take the job and the folder can be written.

        Raises:
            InputError: it would not; quotes it.
        """
        made = self._login.run(["mkdir", "-p", "--", f"{self.folder}/logs"], timeout_s=QUERY_TIMEOUT_S)
        if made.code != 0:
            raise InputError(
                f"the run's folder {self.folder} cannot be made on the login node",
                quote=made.stderr.strip() or None,
                next="name a folder that the login node and all nodes share: slurm.folder in the inventory",
            )
        asked = commands.only_tested(self.submission(self.folder))
        done = self._login.run(asked, stdin=commands.batch_script().encode(), timeout_s=QUERY_TIMEOUT_S)
        self._login.run(commands.forget(self.folder), timeout_s=QUERY_TIMEOUT_S)
        if done.code != 0:
            raise InputError("Slurm would refuse the job", quote=_refusal(done.stderr), next=_edit_hint())

    def submission(self, folder: str) -> list[str]:
        """The command that submits the job."""
        names = [host.name for host in self._hosts]
        gpus = max(len(host.gpus) for host in self._hosts)
        cores = max(host.cores for host in self._hosts)
        return commands.sbatch(self._slurm, self._run, folder, names, gpus=gpus, cores=cores)

    @property
    def folder(self) -> str:
        """The run's folder on shared storage."""
        if self._folder is None:
            base = self._slurm.folder
            if base is None:
                asked = self._login.run(commands.home(), timeout_s=QUERY_TIMEOUT_S).check("looking for the home folder")
                base = f"{asked.stdout.strip()}/overspan"
            self._folder = f"{base}/runs/{self._run}"
        return self._folder

    def _begin_anew(self, job: str) -> None:
        self._job = Job(id=job, state="PENDING")
        self._offsets, self._nodes, self._ends, self._pending_ends, self._told = {}, {}, [], b"", False
        for name in (*self._specs, JOB):
            (self._logs / f"{name}.log").touch()

    # watch -----------------------------------------------------------------------------------------------------------

    def waiting(self) -> str | None:
        """See `Launcher.waiting`."""
        if self._job is None or self._nodes or self._job.over:
            return None
        if self._job.queued:
            reason = f": {self._job.reason}" if self._job.reason not in ("", "None") else ""
            return f"job {self._job.id} is queued{reason}"
        return f"job {self._job.id} begins on {self._job.nodes}"

    def address_of(self, host: str) -> str | None:
        """The address of the node that stands for a host, once it is known."""
        node = self._nodes.get(host)
        return node.address if node else None

    def wait(self, timeout_s: float) -> list[Death]:
        """See `Launcher.wait`. A login node or controller that does not answer is no death."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._look()
            if self._job is not None and not self._told and (self._ends or self._job.over):
                self._settle()
                self._told = True
                return self._deaths()
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(left, READ_INTERVAL_S))

    def _look(self) -> None:
        """Read the folder and ask the controller, each as often as it is due."""
        now = time.monotonic()
        try:
            if self._nodes and now - self._read_at >= READ_INTERVAL_S:
                self._read_at = now
                self._read()
            if now - self._asked_at >= (ASK_INTERVAL_S if self._nodes else READ_INTERVAL_S):
                self._asked_at = now
                self._ask()
            self._problem = None
        except OverspanError as error:
            self._problem = error.what + (f" ({error.quote})" if error.quote else "")

    def _ask(self) -> None:
        jobs = find_jobs(self._login, self._run)
        if jobs:
            self._job = jobs[-1]
        elif self._job is not None and not self._job.queued:
            self._job = self._job.with_(state="FORGOTTEN")
        if self._job is not None and not self._job.queued and not self._nodes:
            self._nodes = nodes_of(self._fresh([f"{self.folder}/nodes"], keep=True)[0].decode(errors="replace"))

    def _fresh(self, paths: Sequence[str], *, keep: bool = False) -> list[bytes]:
        """What each file has that was not read before; with `keep` it will be given again."""
        places = [(path, 0 if keep else self._offsets.get(path, 0)) for path in paths]
        done = self._login.run(commands.read_from(places), timeout_s=QUERY_TIMEOUT_S).check("reading the run's folder")
        found = [base64.b64decode(line) for line in done.stdout.splitlines()]
        found += [b""] * (len(places) - len(found))
        if not keep:
            for (path, offset), data in zip(places, found, strict=True):
                self._offsets[path] = offset + len(data)
        return found

    def _read(self) -> None:
        """Bring new output to the run's logs, and take in which steps have ended."""
        names = [*self._specs, JOB]
        *outputs, ends = self._fresh([*(f"{self.folder}/logs/{name}.log" for name in names), f"{self.folder}/ended"])
        for name, data in zip(names, outputs, strict=True):
            if data:
                with (self._logs / f"{name}.log").open("ab") as log:
                    log.write(data)
        *whole, self._pending_ends = (self._pending_ends + ends).split(b"\n")
        found = [(_END.fullmatch(line.decode(errors="replace")), line) for line in whole]
        self._ends += [(float(end["at"]), int(end["code"]), end["name"]) for end, _ in found if end]
        for line in (line for end, line in found if end is None):
            raise OverspanError(f"{self.folder}/ended has a line that no job of ours writes", quote=repr(line[:200]))

    def _settle(self) -> None:
        """Hear the controller's verdict, and everything that was written until then."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            try:
                self._ask()
                self._read()
                if self._job is None or self._job.over:
                    return
            except OverspanError as error:
                self._problem = error.what
            time.sleep(READ_INTERVAL_S)

    def _deaths(self) -> list[Death]:
        """The job's own end where Slurm ended it, else the steps' in the order in which they ended."""
        job = self._job
        if job is None:
            return []
        if job.cause is not None:
            return [self._job_death(job, job.cause)]
        deaths = [self._step_death(name, code) for _, code, name in sorted(self._ends)]
        return deaths or [self._job_death(job, f"ended without a word: Slurm's state {job.state}, reason {job.reason}")]

    def _job_death(self, job: Job, cause: str) -> Death:
        lost = []
        if job.state in ("NODE_FAIL", "BOOT_FAIL"):
            names = ",".join(node.node for node in self._nodes.values()) or job.nodes
            try:
                lost = lost_nodes(self._login, names)
            except OverspanError as error:
                lost = [f"which one cannot be asked: {error.what}"]
        host = next((one.host for one in self._nodes.values() for text in lost if text.startswith(f"{one.node} ")), "")
        process = next((spec.name for spec in self._specs.values() if spec.host == host), JOB)
        said = [line for line in self._said() if "error:" in line or "CANCELLED" in line or "DUE TO" in line]
        return Death(
            process=process,
            host=host or job.nodes or "the queue",
            ranks=self._specs[process].ranks if process in self._specs else [],
            what=f"job {job.id}",
            cause=cause + (f"; {'; '.join(lost)}" if lost else ""),
            lines=said[-LAST_LINES:] or [describe(self._login, job.id)],
        )

    def _said(self) -> list[str]:
        """The last lines of every log, the batch script's last."""
        return [line for name in (*self._specs, JOB) for line in last_lines(self._logs / f"{name}.log", LAST_LINES)]

    def _step_death(self, name: str, code: int) -> Death:
        spec = self._specs.get(name)
        lines = last_lines(self._logs / f"{name}.log", LAST_LINES)
        return Death(
            process=name,
            host=spec.host if spec else "",
            ranks=spec.ranks if spec else [],
            what=name,
            code=SIGNAL_BASE - code if code > SIGNAL_BASE else code,
            lines=lines or last_lines(self._logs / f"{JOB}.log", LAST_LINES),
        )

    def members(self) -> list[Member]:
        """See `Launcher.members`. The controller is asked now; where it does not answer they are unknown."""
        try:
            return self.look()[0]
        except OverspanError:
            return [Member(process=spec.name, host=spec.host, health="unknown") for spec in self._specs.values()]

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """The run's steps as they are now, whoever started them.

        Returns:
            The members, and why the login node or controller did not answer, by host.
        """
        try:
            jobs = [job for job in find_jobs(self._login, self._run) if not job.over]
            steps = [step for job in jobs for step in find_steps(self._login, job.id)]
            known = nodes_of(self._fresh([f"{self.folder}/nodes"], keep=True)[0].decode(errors="replace"))
        except OverspanError as error:
            why = error.what + (f" ({error.quote})" if error.quote else "")
            return [], dict.fromkeys((host.name for host in self._hosts), why)
        host_of = {node.node: node.host for node in known.values()}
        return [
            Member(
                process=step.process,
                host=host_of.get(step.node, step.node),
                health="running",
                started_at=_seconds(step.started),
            )
            for step in steps
        ], {}

    # end -------------------------------------------------------------------------------------------------------------

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`. Whatever bears the run's name ends, whoever submitted it; twice is fine."""
        try:
            self._drain(grace_s)
            left = self._cancel()
            if self._job is not None:
                self._read()
            if not left:
                self._login.run(commands.forget(self.folder), timeout_s=QUERY_TIMEOUT_S).check("removing its folder")
            return left
        except HostUnreachable as error:
            return [f"the login node does not answer: {error.what}"]
        except OverspanError as error:
            return [error.what + (f" ({error.quote})" if error.quote else "")]

    def _active(self) -> list[Job]:
        return [job for job in find_jobs(self._login, self._run) if not job.over]

    def _drain(self, grace_s: float) -> None:
        """Let streams in flight end, at most for `grace_s`."""
        running = [job for job in self._active() if not job.queued]
        if not running or grace_s <= 0:
            return
        self._login.run(commands.ask_to_end(self.folder), timeout_s=QUERY_TIMEOUT_S)
        for job in running:
            self._login.run(commands.terminate(job.id), timeout_s=QUERY_TIMEOUT_S)
        deadline = time.monotonic() + grace_s
        while self._active() and time.monotonic() < deadline:
            time.sleep(READ_INTERVAL_S)

    def _cancel(self) -> list[str]:
        deadline = time.monotonic() + STOP_MARGIN_S
        while active := self._active():
            for job in active:
                if job.state != "COMPLETING":
                    self._login.run(commands.cancel(job.id), timeout_s=QUERY_TIMEOUT_S)
            if time.monotonic() > deadline:
                return [f"job {job.id} is still {job.state} on {job.nodes or 'no node'}" for job in active]
            time.sleep(READ_INTERVAL_S)
        return []

    def close(self) -> None:
        """Let go: the job goes on, and any launcher of the same run finds it."""


def _refusal(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "sbatch said nothing")


def _edit_hint() -> str:
    return "edit `slurm` in the inventory (partition, account, time_limit, directives); sinfo tells what the site has"


def _seconds(stamp: str) -> float | None:
    """Slurm's local time of the login node, in seconds since the epoch; None for `N/A`."""
    try:
        return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
