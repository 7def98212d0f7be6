"""What Slurm says about a run's job, and what that means."""

from __future__ import annotations

from typing import Final

from overspan.launchers import slurm_commands as commands
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.transport.base import Transport

QUERY_TIMEOUT_S: Final = 30.0
"""A busy controller answers within seconds; its clients give up after MessageTimeout, by default 10 s."""

QUEUED: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"})
"""Before its script runs. Source: squeue(1), JOB STATE CODES."""

ACTIVE: Final = frozenset({"RUNNING", "COMPLETING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"})
"""Its script or steps may run."""

CAUSES: Final = {
    "BOOT_FAIL": "ended: a node did not boot",
    "CANCELLED": "was cancelled from outside (scancel)",
    "DEADLINE": "ended: its deadline came",
    "NODE_FAIL": "ended: a node failed",
    "OUT_OF_MEMORY": "ended: out of memory",
    "PREEMPTED": "was preempted by a job of higher priority",
    "REVOKED": "was revoked by its federation",
    "TIMEOUT": "reached its time limit",
}
"""States in which Slurm, not the process, ended the job. Source: squeue(1), JOB STATE CODES."""


class Job(Frozen):
    """A run's job as the controller has it."""

    id: str
    state: str
    reason: str = ""
    nodes: str = ""
    time_limit: str = ""

    @property
    def queued(self) -> bool:
        """Whether it has not begun."""
        return self.state in QUEUED

    @property
    def over(self) -> bool:
        """Whether nothing of it can run any more."""
        return self.state not in QUEUED | ACTIVE

    @property
    def cause(self) -> str | None:
        """Why Slurm ended it, in words; None where it did not."""
        words = CAUSES.get(self.state)
        if words is None:
            return None
        limit = f" of {self.time_limit}" if self.state == "TIMEOUT" and self.time_limit else ""
        return f"{words}{limit}: Slurm's state {self.state}" + (
            f", reason {self.reason}" if self.reason not in ("", "None") else ""
        )


class Step(Frozen):
    """A step that runs."""

    process: str
    node: str
    started: str = ""


class Node(Frozen):
    """A host of the plan, and the node that stands for it."""

    host: str
    node: str
    address: str


def find_jobs(transport: Transport, run: str) -> list[Job]:
    """The run's jobs, the newest last: one, or none where the controller has forgotten it or never knew it.

    Raises:
        HostUnreachable: the login node does not answer.
        OverspanError: the controller does not; quotes squeue.
    """
    done = transport.run(commands.find_job(run), timeout_s=QUERY_TIMEOUT_S).check("asking Slurm for the job")
    rows = [line.split(commands.SEPARATOR) for line in done.stdout.splitlines() if line.strip()]
    return [
        Job(id=row[0], state=row[1], reason=row[2], nodes=row[3], time_limit=row[4]) for row in rows if len(row) == 5
    ]


def find_steps(transport: Transport, job: str) -> list[Step]:
    """The steps of a job that run; Slurm's own (the batch script) are left out."""
    done = transport.run(commands.list_steps(job), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0:
        return []
    rows = [line.split(commands.SEPARATOR) for line in done.stdout.splitlines() if line.strip()]
    return [Step(process=row[0], node=row[1], started=row[2]) for row in rows if len(row) == 3 and row[0] != "batch"]


def describe(transport: Transport, job: str) -> str:
    """The controller's own line about a job."""
    try:
        done = transport.run(commands.show_job(job), timeout_s=QUERY_TIMEOUT_S)
    except OverspanError as error:
        return f"(Slurm does not tell more: {error.what})"
    return (done.stdout if done.code == 0 else done.stderr).strip()


def lost_nodes(transport: Transport, names: str) -> list[str]:
    """The nodes among `names` that are out of service, each as `name: state (reason)`."""
    if not names:
        return []
    done = transport.run(commands.nodes(names), timeout_s=QUERY_TIMEOUT_S)
    rows = [line.split(commands.SEPARATOR) for line in done.stdout.splitlines() if line.strip()]
    out = {row[0]: f"{row[0]} is {row[1]} ({row[2]})" for row in rows if len(row) == 3}
    return [text for name, text in out.items() if " is down" in text or "fail" in text.lower()]


def nodes_of(text: str) -> dict[str, Node]:
    """The batch script's own file of hosts, nodes and addresses, by host."""
    rows = [line.split("|") for line in text.splitlines()]
    return {row[0]: Node(host=row[0], node=row[1], address=row[2]) for row in rows if len(row) == 3}
