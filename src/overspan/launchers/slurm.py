"""One allocation a run, one step a process. Slurm owns the job; any shell finds it again by its name.

Needs a folder on storage that the login node and the nodes share: the steps' arguments go there, and from there their
output and ends come back, read a few times a second over the one way to the login node.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from overspan.launchers import slurm_commands as commands
from overspan.launchers.base import LAST_LINES, Death, Launcher, Member, exit_code, require_secrets, with_path
from overspan.launchers.slurm_folder import JobFolder
from overspan.launchers.slurm_state import Node, SlurmJob, ask, describe, find_jobs, find_steps, lost_nodes
from overspan.launchers.tail import last_lines
from overspan.schema.errors import HostUnreachable, InputError, OverspanError
from overspan.schema.inventory import Host, Inventory, Slurm
from overspan.schema.launcher_traits import BUILT_IN
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import Secret

# As in `base`: what only a run needs is imported by the run.
if TYPE_CHECKING:
    from overspan.store.locks import Say
    from overspan.store.run_folder import RunFolder
    from overspan.transport.base import Completed, Transport

READ_INTERVAL_S: Final = 0.5
"""How often the shared folder is read: a few small files, well inside the 5 s in which a death must be told."""

ASK_INTERVAL_S: Final = 2.0
"""How often the controller is asked. It serves a whole site: less often than the files, and often enough."""

SETTLE_S: Final = 20.0
"""How long an end waits for the controller's verdict: a failing node is COMPLETING until Slurm is done with it."""

STOP_MARGIN_S: Final = 90.0
"""What Slurm may need to end a job: KillWait is 30 s by default, and an epilog comes after it."""

LOGIN: Final = "login"
"""The name of the login node among the transports."""

JOB: Final = "job"
"""The name of the job itself among the processes: its log is the batch script's output."""


class SlurmLauncher(Launcher):
    """See `Launcher`. Its one transport leads to the login node; the job's nodes are reached by Slurm alone."""

    traits = BUILT_IN["slurm"]

    def __init__(
        self, plan: Plan, run: RunFolder | None = None, transports: Mapping[str, Transport] | None = None
    ) -> None:
        super().__init__(plan, run, transports)
        self._site = plan.inventory.slurm or Slurm()
        self._specs: dict[str, ProcessSpec] = {}
        self._nodes: dict[str, Node] = {}
        self._job: SlurmJob | None = None
        self._read_at = self._asked_at = 0.0
        self._ends: list[tuple[float, int, str]] = []
        self._told = False

    # before a launch -------------------------------------------------------------------------------------------------

    @classmethod
    def refusal(cls, inventory: Inventory) -> str | None:
        """See `Launcher.refusal`: whether Slurm answers on the login node."""
        from overspan.inventory.probes import look
        from overspan.inventory.software import SINFO
        from overspan.transport.reach import reach

        login = _login_of(inventory)
        with closing(reach(login)) as transport:
            partitions, _ = look(transport, SINFO)
        where = login.ssh.address if login.ssh else "this machine"
        return f"Slurm does not answer on {where}: {partitions.why}" if partitions.value is None else None

    def ways(self) -> dict[str, Transport]:
        """See `Launcher.ways`: the login node alone."""
        from overspan.transport.reach import reach

        return {LOGIN: reach(_login_of(self.plan.inventory))}

    def gateway(self) -> Transport:
        """See `Launcher.gateway`: the login node, which sees what the nodes see."""
        return self.transports[LOGIN]

    def check(self) -> None:
        """See `Launcher.check`: whether Slurm would take the job, and the run's folder can be written."""
        self._folder.require_writable()
        # The same submission, only checked; the script comes from standard input.
        sbatch, *words, _, _ = commands.sbatch(self._site, self.run.id, self._folder.path, self.hosts)
        done = ask(self.gateway(), [sbatch, "--test-only", *words], stdin=commands.batch_script().encode())
        self._folder.remove()
        if done.code != 0:
            raise _refused("Slurm would refuse the job", done)

    def stage(self, plan: Plan, say: Say, *, prepared_here: bool) -> Plan:
        """See `Launcher.stage`: weights must be there; an image is imported where Pyxis starts containers."""
        from overspan.provision import shared

        if plan.model_path is not None:
            shared.check_weights(self.gateway(), plan.model_path)
        if plan.engine.image is not None and self._imports_images:
            folder = self._images_in(self._folder.base)
            image = shared.import_image(self.gateway(), plan.engine.image, folder, say)
            plan = plan.with_(engine=plan.engine.with_(image=image))
        return self._with_local_copy(plan)

    def with_packages(self, folder: Path, specs: Sequence[ProcessSpec], say: Say) -> list[ProcessSpec] | str:
        """See `Launcher.with_packages`: on the storage that the nodes share."""
        if any(spec.image for spec in specs):
            return "nobody can tell here which PYTHONPATH the job's image needs"
        there = self._folder.keep(folder)
        return [with_path(spec, there) for spec in specs]

    def as_staged(self) -> Plan:
        """See `Launcher.as_staged`: the model's place, and the name of the image's file."""
        plan = self.plan
        known = plan.inventory.models.get(plan.recipe.model)
        plan = plan.with_(model_path=known) if known is not None and known.startswith("/") else plan
        image = plan.engine.image
        if image and not image.startswith("/") and self._imports_images:
            from overspan.provision import shared

            held = shared.image_file(image, self._images_in(self._site.folder or commands.HOME_FOLDER))
            plan = plan.with_(engine=plan.engine.with_(image=held))
        return self._with_local_copy(plan)

    def _images_in(self, folder: str) -> str:
        """Where imported images are. `folder`: the one that the nodes share."""
        return self._site.images or f"{folder}/images"

    def _with_local_copy(self, plan: Plan) -> Plan:
        """The plan whose weights go to each node's own disk, where the site wants that."""
        if plan.model_path is None or not self._site.local_models:
            return plan
        target = f"{self._site.local_models}/{plan.model_digest or Path(plan.model_path).name}"
        return plan.with_(model_path=target, model_source=plan.model_path)

    @property
    def _imports_images(self) -> bool:
        container = self.hosts[0].container
        return container is not None and container.kind == "enroot"

    def commands(self, specs: Sequence[ProcessSpec], run: str = "by-hand") -> str:
        """See `Launcher.commands`: the submission, the batch script, and each step that it starts."""
        return commands.as_texts(self._site, run, self.hosts, specs, commands.copy_of(self.plan))

    # start -----------------------------------------------------------------------------------------------------------

    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        """Submit one job with a step for each process. It may wait in a queue: see `waiting`.

        Raises:
            InputError: Slurm refuses the submission; quotes it.
            OverspanError: the shared folder cannot be written.
        """
        require_secrets(specs, secrets)
        packed = commands.files(specs, self.run.id, self.hosts, secrets=secrets, copy=commands.copy_of(self.plan))
        self._folder.receive(packed)
        done = ask(self.gateway(), commands.sbatch(self._site, self.run.id, self._folder.path, self.hosts))
        if done.code != 0:
            self._folder.remove()
            raise _refused("Slurm refuses the job", done)
        self._specs = {spec.name: spec for spec in specs}
        self._job = SlurmJob(done.stdout.strip().split(";")[0], "PENDING")
        self._folder.begin_anew()
        self._nodes, self._ends, self._told = {}, [], False
        for name in (*self._specs, JOB):
            self.run.log(name).touch()

    @cached_property
    def _folder(self) -> JobFolder:
        return JobFolder(self.gateway(), self.run.id, self._site.folder)

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
        with suppress(OverspanError):  # asked again soon; `look` tells why nobody answered
            if self._nodes and now - self._read_at >= READ_INTERVAL_S:
                self._read_at = now
                self._read()
            if now - self._asked_at >= (ASK_INTERVAL_S if self._nodes else READ_INTERVAL_S):
                self._asked_at = now
                self._ask()

    def _ask(self) -> None:
        jobs = find_jobs(self.gateway(), self.run.id)
        if jobs:
            self._job = jobs[-1]
        elif self._job is not None and not self._job.queued:
            self._job = self._job._replace(state="FORGOTTEN")
        if self._job is not None and not self._job.queued and not self._nodes:
            self._nodes = self._folder.nodes()

    def _read(self) -> None:
        """Bring new output to the run's logs, and take in which steps have ended."""
        outputs, ends = self._folder.news([*self._specs, JOB])
        for name, data in outputs.items():
            if data:
                with self.run.log(name).open("ab") as log:
                    log.write(data)
        self._ends += ends

    def _settle(self) -> None:
        """Hear the controller's verdict, and everything that was written until then."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            with suppress(OverspanError):  # asked again until the time is over
                self._ask()
                self._read()
                if self._job is None or self._job.over:
                    return
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

    def _job_death(self, job: SlurmJob, cause: str) -> Death:
        lost = []
        if job.state in ("NODE_FAIL", "BOOT_FAIL"):
            names = ",".join(node.node for node in self._nodes.values()) or job.nodes
            try:
                lost = lost_nodes(self.gateway(), names)
            except OverspanError as error:
                lost = [f"which one cannot be asked: {error.what}"]
        host = next((one.host for one in self._nodes.values() for text in lost if text.startswith(f"{one.node} ")), "")
        process = next((spec.name for spec in self._specs.values() if spec.host == host), JOB)
        ends = [line for name in (*self._specs, JOB) for line in last_lines(self.run.log(name), LAST_LINES)]
        said = [line for line in ends if "error:" in line or "CANCELLED" in line or "DUE TO" in line]
        return Death(
            process=process,
            host=host or job.nodes or "the queue",
            ranks=self._specs[process].ranks if process in self._specs else [],
            what=f"job {job.id}",
            cause=cause + (f"; {'; '.join(lost)}" if lost else ""),
            lines=said[-LAST_LINES:] or [describe(self.gateway(), job.id)],
        )

    def _step_death(self, name: str, code: int) -> Death:
        spec = self._specs.get(name)
        lines = last_lines(self.run.log(name), LAST_LINES)
        return Death(
            process=name,
            host=spec.host if spec else "",
            ranks=spec.ranks if spec else [],
            what=name,
            code=exit_code(code),
            lines=lines or last_lines(self.run.log(JOB), LAST_LINES),
        )

    def members(self) -> list[Member]:
        """See `Launcher.members`. The controller is asked now; where it does not answer they are unknown."""
        found, silent = self.look()
        if not silent:
            return found
        return [Member(process=spec.name, host=spec.host, health="unknown") for spec in self._specs.values()]

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """The run's steps as they are now, whoever started them.

        Returns:
            The members, and why the login node or controller did not answer, by host.
        """
        try:
            jobs = [job for job in find_jobs(self.gateway(), self.run.id) if not job.over]
            steps = [step for job in jobs for step in find_steps(self.gateway(), job.id)]
            known = self._folder.nodes()
        except OverspanError as error:
            return [], dict.fromkeys((host.name for host in self.hosts), error.in_one_line)
        host_of = {node.node: node.host for node in known.values()}
        return [
            Member(process=name, host=host_of.get(node, node), health="running", started_at=started_at)
            for name, node, started_at in steps
        ], {}

    # end -------------------------------------------------------------------------------------------------------------

    def end(self, grace_s: float) -> list[str]:
        """See `Launcher.end`. Every job with the run's name ends; a second call does no harm."""
        try:
            self._drain(grace_s)
            left = self._cancel()
            if self._job is not None:
                self._read()
            if not left:
                self._folder.remove(must=True)
            return left
        except HostUnreachable as error:
            return [f"the login node does not answer: {error.what}"]
        except OverspanError as error:
            return [error.in_one_line]

    def _active(self) -> list[SlurmJob]:
        return [job for job in find_jobs(self.gateway(), self.run.id) if not job.over]

    def _drain(self, grace_s: float) -> None:
        """Let streams in flight end, at most for `grace_s`."""
        running = [job for job in self._active() if not job.queued]
        if not running or grace_s <= 0:
            return
        self._folder.begin_ending()
        for job in running:
            ask(self.gateway(), ["scancel", "--signal=TERM", job.id])
        deadline = time.monotonic() + grace_s
        while self._active() and time.monotonic() < deadline:
            time.sleep(READ_INTERVAL_S)

    def _cancel(self) -> list[str]:
        deadline = time.monotonic() + STOP_MARGIN_S
        while active := self._active():
            for job in active:
                if job.state != "COMPLETING":
                    ask(self.gateway(), ["scancel", job.id])  # SIGKILL after the site's KillWait
            if time.monotonic() > deadline:
                return [f"job {job.id} is still {job.state} on {job.nodes or 'no node'}" for job in active]
            time.sleep(READ_INTERVAL_S)
        return []


def _login_of(inventory: Inventory) -> Host:
    """The machine that submits jobs."""
    return Host(name=LOGIN, memory_bytes=1, ssh=inventory.slurm.login if inventory.slurm else None)


def _refused(what: str, done: Completed) -> InputError:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "sbatch said nothing")
    hint = "edit `slurm` in the inventory (partition, account, time_limit, directives); sinfo tells what the site has"
    return InputError(what, quote=said, next=hint)


LAUNCHER = SlurmLauncher
