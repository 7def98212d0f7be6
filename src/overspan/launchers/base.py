"""What Overspan asks of a launcher, in one object; docs/extending.md shows how another package brings one."""

from __future__ import annotations

import shlex
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Host, Inventory
from overspan.schema.launcher_traits import LauncherTraits
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import Secret

# What only a run needs is imported by the run: `overspan plan` prints commands and stays quick.
if TYPE_CHECKING:
    from overspan.store.locks import Say
    from overspan.store.run_folder import RunFolder
    from overspan.transport.base import Transport

Health = Literal["running", "dead", "unknown"]

PYTHONPATH: Final = "PYTHONPATH"
LAST_LINES: Final = 12
"""How many lines a death quotes: a Python traceback's end and the error fit."""

_SIGNAL_BASE, _LAST_SIGNAL = 128, 64
"""An exit status above the base is a signal's number plus it. Source: docker-run(1), srun(1), signal(7)."""


class Death(Frozen, defer_build=True):
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


class Member(Frozen, defer_build=True):
    """One process of the run as it is now. `unknown` means that its host does not answer, which is no death."""

    process: str
    host: str
    health: Health
    pid: int | None = None
    container: str | None = None
    memory_bytes: int | None = None
    started_at: float | None = Field(None, description="seconds since the epoch")


class Launcher(ABC):
    """Starts, watches and ends the processes of one run, and answers all else that its kind of start decides.

    An object is for one plan and, from `up` on, one run. Making one opens no connection and asks nothing. It is not
    safe for use from several threads at once.

    Args:
        plan: what to start.
        run: the run's folder; without it nothing can be started, only told.
        transports: the ways to the hosts, where others than `ways` gives are wanted.
    """

    traits: ClassVar[LauncherTraits] = LauncherTraits()

    asks_hosts: ClassVar[bool] = False
    """Whether `up` asks each host what preflight asks, before anything is copied there."""

    @property
    def asked_checks(self) -> frozenset[str] | None:
        """The checks of preflight that `up` asks, by their rules; None: all that apply."""
        return None

    def __init__(
        self, plan: Plan, run: RunFolder | None = None, transports: Mapping[str, Transport] | None = None
    ) -> None:
        self.plan = plan
        self.hosts = hosts_of(plan)
        self._run = run
        self._transports = transports

    @property
    def run(self) -> RunFolder:
        """The run's folder on this machine."""
        if self._run is None:
            raise ValueError("this launcher was made for a plan alone")
        return self._run

    @cached_property
    def transports(self) -> dict[str, Transport]:
        """A way to each machine that is asked to start something, by its name. Nothing is opened yet."""
        return dict(self.ways() if self._transports is None else self._transports)

    # before a launch -------------------------------------------------------------------------------------------------

    @classmethod
    def refusal(cls, inventory: Inventory) -> str | None:
        """Why nothing can be started on these machines now, asked in seconds; None where nothing speaks against it."""
        return None

    def ways(self) -> dict[str, Transport]:
        """What `transports` holds unless others were given."""
        from overspan.transport.reach import reach

        return {host.name: reach(host) for host in self.hosts}

    def gateway(self) -> Transport:
        """The machine from which the endpoint is reached, and where an environment of the engine can be patched."""
        return self.transports[self.hosts[0].name]

    def check(self) -> None:  # noqa: B027 - most launchers refuse nothing
        """Ask what may refuse the run, before anything is fetched for it.

        Raises:
            InputError: it is refused; quotes by whom.
        """

    def stage(self, plan: Plan, say: Say, *, prepared_here: bool) -> Plan:
        """Bring image and model to where the processes will find them.

        Args:
            plan: with the model's path.
            say: told what is being copied.
            prepared_here: whether the model was made ready on this machine, not named in the inventory.

        Returns:
            The plan with the places where they are.

        Raises:
            HostUnreachable: a host does not answer.
            InputError: image or model are nowhere.
        """
        return plan

    def with_packages(self, folder: Path, specs: Sequence[ProcessSpec], say: Say) -> list[ProcessSpec] | str:
        """The processes with a folder of Python packages before their own, once it was brought to where they will be.

        Args:
            folder: of this machine.
            specs: as `stage` left them.
            say: told what is being copied.

        Returns:
            The processes, or why they cannot have it.
        """
        return f"launcher {self.plan.inventory.launcher} brings no packages"

    def as_staged(self) -> Plan:
        """The plan as `stage` will make it, as far as that is known without asking anybody."""
        return self.plan

    def commands(self, specs: Sequence[ProcessSpec], run: str = "by-hand") -> str:
        """What a person would paste to start the processes by hand: for people only, nothing of ours runs it."""
        texts = []
        for spec in specs:
            exports = [f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()]
            texts.append(as_text(spec, *exports, shlex.join(spec.argv)))
        return "\n\n".join(texts)

    def placed(self, specs: Sequence[ProcessSpec]) -> list[ProcessSpec]:
        """The processes with what the launcher alone knows in their arguments, as the run's folder."""
        return list(specs)

    # while it runs ---------------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec, secrets: Mapping[str, Secret]) -> None:
        """Start one process; see `start_all`."""
        self.start_all([spec], secrets)

    @abstractmethod
    def start_all(self, specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
        """Start several processes at once; the output of each goes to `<logs>/<name>.log` on this machine.

        Args:
            specs: what to start.
            secrets: values for `spec.secrets`; they never enter an argv, a label or a log.

        Raises:
            OverspanError: the first that could not be started, with its host; `end` removes the others.
        """

    def waiting(self) -> str | None:
        """What the processes wait for before they start, e.g. a place in a queue; None once they may run."""
        return None

    def address_of(self, host: str) -> str | None:
        """Where a host of the plan is, once it runs, where the launcher chose it; None where the inventory tells."""
        return None

    @abstractmethod
    def wait(self, timeout_s: float) -> list[Death]:
        """Wait until something died, at most `timeout_s`; deaths come in the order in which they happened."""

    @abstractmethod
    def members(self) -> list[Member]:
        """Every process that this object started, as it is now."""

    @abstractmethod
    def end(self, grace_s: float) -> list[str]:
        """Ask every process to end, wait up to `grace_s`, then kill what is left, children included.

        Returns:
            What could not be ended and why, e.g. a host that does not answer; empty when nothing is left.
        """

    # from any shell --------------------------------------------------------------------------------------------------

    def look(self) -> tuple[list[Member], dict[str, str]]:
        """The run's processes as they are now, whoever started them; nothing is taken over and no log is touched.

        Returns:
            The members, and for each host that did not answer the reason.
        """
        return self.members(), {}

    def end_elsewhere(self) -> list[str]:
        """End at once what outlives the supervisor that started it; the guardian ends what is a child of its own.

        Returns:
            What could not be ended and why.
        """
        return [] if self.plan.inventory.traits.here else self.end(grace_s=0)

    def close(self) -> None:
        """Let go of connections; what runs goes on as far as it can. Twice is fine."""
        for transport in self.transports.values():
            transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hosts_of(plan: Plan) -> list[Host]:
    """The hosts on which this run starts ranks, the head first."""
    by_name = {host.name: host for host in plan.inventory.hosts}
    return [by_name[name] for name in dict.fromkeys(placement.host for placement in plan.own)]


def with_path(spec: ProcessSpec, *folders: str) -> ProcessSpec:
    """The process with folders of Python packages: the first before its own PYTHONPATH, the others behind it."""
    path = ":".join(dict.fromkeys(filter(None, [*folders[:1], spec.env.get(PYTHONPATH, ""), *folders[1:]])))
    return spec.with_(env={**spec.env, PYTHONPATH: path})


def require_secrets(specs: Sequence[ProcessSpec], secrets: Mapping[str, Secret]) -> None:
    """Refuse to start what lacks a secret.

    Raises:
        OverspanError: one is not set.
    """
    for spec in specs:
        if missing := [name for name in spec.secrets if name not in secrets]:
            raise OverspanError(f"process {spec.name} needs {', '.join(missing)}, which is not set")


def as_text(spec: ProcessSpec, *lines: str) -> str:
    """A process as text to paste: where it runs, a remark for each secret (its name, never its value), its lines."""
    secrets = (f"# {name} is set from a file that only you can read" for name in spec.secrets)
    return "\n".join([f"# {spec.name} on {spec.host}", *secrets, *lines])


def exit_code(status: int) -> int:
    """An exit status as `Death.code` has it: negative for a signal."""
    return _SIGNAL_BASE - status if _SIGNAL_BASE < status <= _SIGNAL_BASE + _LAST_SIGNAL else status
