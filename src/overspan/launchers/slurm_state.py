"""What Slurm says about a run's job, and what that means."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from overspan.launchers.slurm_commands import job_name
from overspan.schema.errors import OverspanError

if TYPE_CHECKING:
    from overspan.transport.base import Completed, Transport

QUERY_TIMEOUT_S: Final = 30.0
"""A busy controller answers within seconds; its clients give up after MessageTimeout, by default 10 s."""

_SEPARATOR: Final = "|"

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


class SlurmJob(NamedTuple):
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


class Step(NamedTuple):
    """A step that runs."""

    process: str
    node: str
    started_at: float | None


class Node(NamedTuple):
    """A host of the plan, and the node that stands for it."""

    host: str
    node: str
    address: str


def ask(transport: Transport, argv: Sequence[str], *, stdin: bytes | None = None) -> Completed:
    """Run a command on the login node."""
    return transport.run(argv, stdin=stdin, timeout_s=QUERY_TIMEOUT_S)


def _rows(text: str, cells: int) -> list[list[str]]:
    rows = [line.split(_SEPARATOR) for line in text.splitlines()]
    return [row for row in rows if len(row) == cells]


def find_jobs(transport: Transport, run: str) -> list[SlurmJob]:
    """The run's jobs, ended ones too, the newest last; none where the controller never knew it or has forgotten it
    (MinJobAge).

    Raises:
        HostUnreachable: the login node does not answer.
        OverspanError: the controller does not; quotes squeue.
    """
    fields = _SEPARATOR.join(("%i", "%T", "%r", "%N", "%l"))
    argv = ["squeue", "--noheader", "--states=all", f"--name={job_name(run)}", f"--format={fields}"]
    said = ask(transport, argv).check("asking Slurm for the job").stdout
    return [SlurmJob(*row) for row in _rows(said, 5)]


def find_steps(transport: Transport, job: str) -> list[Step]:
    """The steps of a job that run; Slurm's own (the batch script) are left out.

    Slurm prints times in the zone of its client's environment and does not name it, so the client is given one.
    """
    fields = _SEPARATOR.join(("%j", "%N", "%S"))
    argv = ["squeue", "--noheader", "--steps", f"--jobs={job}", f"--format={fields}"]
    done = transport.run(argv, env={"TZ": "UTC"}, timeout_s=QUERY_TIMEOUT_S)
    rows = _rows(done.stdout, 3) if done.code == 0 else []
    return [Step(name, node, _seconds(at)) for name, node, at in rows if name != "batch"]


def _seconds(stamp: str) -> float | None:
    """Slurm's time, in UTC, in seconds since the epoch; None for `N/A`."""
    try:
        return datetime.fromisoformat(f"{stamp}+00:00").timestamp()
    except ValueError:
        return None


def describe(transport: Transport, job: str) -> str:
    """The controller's own line about a job."""
    try:
        done = ask(transport, ["scontrol", "--oneliner", "show", "job", job])
    except OverspanError as error:
        return f"(Slurm does not tell more: {error.what})"
    return (done.stdout if done.code == 0 else done.stderr).strip()


def lost_nodes(transport: Transport, names: str) -> list[str]:
    """The nodes among `names` that are out of service, each as `name: state (reason)`."""
    if not names:
        return []
    fields = _SEPARATOR.join(("%N", "%T", "%E"))
    done = ask(transport, ["sinfo", "--noheader", "--Node", f"--nodes={names}", f"--format={fields}"])
    out = {node: f"{node} is {state} ({reason})" for node, state, reason in _rows(done.stdout, 3)}
    return [text for text in out.values() if " is down" in text or "fail" in text.lower()]


def nodes_of(text: str) -> dict[str, Node]:
    """The batch script's own file of hosts, nodes and addresses, by host."""
    return {row[0]: Node(*row) for row in _rows(text, 3)}
