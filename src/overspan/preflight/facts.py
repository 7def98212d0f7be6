"""One host of a plan as preflight sees it, what a check is, and what it may say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, Literal, TypeVar

from overspan.engines import registry
from overspan.engines.base import Engine
from overspan.inventory.fact import Capture, Fact, Seen, Value
from overspan.inventory.probes import look
from overspan.schema.finding import Evidence, Finding, Status
from overspan.schema.inventory import Gpu, Host
from overspan.schema.paste import command
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport
from overspan.transport.ssh import by_hand

HOSTS_AT_ONCE: Final = 32
COMMAND: Final = "one command"
NOTHING: Final = "nothing: the plan is read"

Result = TypeVar("Result")


class FactUnreadable(Exception):
    """A host gave no value for a fact that a check rests on; the check is then `not_evaluated`."""

    def __init__(self, capture: Capture, why: str) -> None:
        super().__init__(why)
        self.finding = unreadable(capture, why)


@dataclass(frozen=True)
class HostFacts:
    """A host, the way to it, and what the plan wants of it.

    `entry` is the host in the inventory, `hosts` are all of the plan's, the head first. Each fact is asked once: `seen`
    keeps what was answered.
    """

    plan: Plan
    entry: Host
    hosts: tuple[Host, ...]
    specs: tuple[ProcessSpec, ...]
    transport: Transport
    seen: dict[tuple[str, ...], tuple[Seen[Any], Capture]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.entry.name

    @property
    def host(self) -> Host:
        """The host in the inventory, as rooms that only reach hosts call it."""
        return self.entry

    @property
    def is_head(self) -> bool:
        """Whether rank 0 lives here."""
        return self.name == self.hosts[0].name

    @property
    def several(self) -> bool:
        """Whether the plan spans hosts."""
        return len(self.hosts) > 1

    @property
    def cuda(self) -> bool:
        """Whether the plan runs on GPUs."""
        return self.plan.inventory.device == "cuda"

    @property
    def docker(self) -> bool:
        """Whether the plan starts containers."""
        return self.plan.inventory.traits.containers == "always"

    @property
    def engine(self) -> Engine:
        """The engine of the plan."""
        return registry.find(self.plan.engine.name)

    @property
    def is_here(self) -> bool:
        """Whether what is started on this host runs on this machine."""
        return self.plan.inventory.is_here(self.entry)

    @property
    def engine_is_here(self) -> bool:
        """Whether the engine is one of this machine, and in no container."""
        return self.plan.inventory.traits.here and self.is_here

    @property
    def cuda_in_docker(self) -> bool:
        """Whether the plan starts containers that use GPUs."""
        return self.cuda and self.docker

    @property
    def gpus(self) -> list[Gpu]:
        """The GPUs of this host that the plan uses."""
        wanted = {index for each in self.plan.placements if each.host == self.name for index in each.gpus}
        return [gpu for gpu in self.entry.gpus if gpu.index in wanted]

    @property
    def ranks(self) -> int:
        """Ranks on this host."""
        return sum(len(each.ranks) for each in self.plan.placements if each.host == self.name)

    def look(self, fact: Fact[Value]) -> tuple[Seen[Value], Capture]:
        """A fact of this host, or why it has no value; see `probes.look`."""
        key = (fact.name, *fact.argv)
        if key not in self.seen:
            self.seen[key] = look(self.transport, fact)
        return self.seen[key]

    def read(self, fact: Fact[Value]) -> tuple[Value, Capture]:
        """A fact of this host.

        Raises:
            FactUnreadable: it has no value.
            HostUnreachable: the host does not answer.
        """
        seen, capture = self.look(fact)
        if seen.value is None:
            raise FactUnreadable(capture, seen.why)
        return seen.value, capture

    def setting(self, name: str) -> list[str]:
        """The values that this host's processes have of one variable; none where it is not set."""
        return list(dict.fromkeys(spec.env[name] for spec in self.specs if spec.env.get(name)))

    def paste(self, *argv: str) -> str:
        """The command to run from this machine so that `argv` runs on the host, to be pasted into a shell."""
        return paste_on(self.entry, *argv)

    def detect(self, *entries: Host) -> str:
        """The command to paste that writes the inventory anew, of these hosts; of all of the plan's without any."""
        names = ",".join(_address(entry) for entry in entries or self.hosts)
        return f"{command('overspan', 'detect', '--hosts', names)} > inventory.yaml"


def paste_on(entry: Host, *argv: str) -> str:
    """The command to run from this machine so that `argv` runs on a host, to be pasted into a shell."""
    text = command(*argv)
    return text if entry.ssh is None else by_hand(entry.ssh, text)


def _address(entry: Host) -> str:
    """What `--hosts` takes for a host."""
    if entry.ssh is None:
        return "localhost"
    user = f"{entry.ssh.user}@" if entry.ssh.user else ""
    name = f"[{entry.ssh.address}]" if ":" in entry.ssh.address else entry.ssh.address
    return f"{user}{name}{f':{entry.ssh.port}' if entry.ssh.port != 22 else ''}"


def side_by_side(hosts: Sequence[HostFacts], ask: Callable[[HostFacts], Result]) -> list[tuple[HostFacts, Result]]:
    """What each host answers, asked of all at once."""
    with ThreadPoolExecutor(min(len(hosts), HOSTS_AT_ONCE)) as pool:
        return list(zip(hosts, pool.map(ask, hosts), strict=True))


Asked = Capture | list[str] | None
"""What a finding rests on: a command and what it wrote, the command alone, or nothing but the plan."""


def _finding(status: Status, asked: Asked, text: str, **more: str | None) -> Finding:
    argv = asked.argv if isinstance(asked, Capture) else asked
    # The check's rule and the host are added by `Check.finding`.
    fields = {"rule": "", "status": status, "evidence": Evidence(text=text, command=argv), "severity": "info", **more}
    return Finding.model_validate(fields)


def passed(asked: Asked, text: str) -> Finding:
    """As it should be."""
    return _finding("passed", asked, text)


def failed(
    asked: Asked, text: str, *, cause: str, fix: str | None, severity: Literal["error", "warning"] = "error"
) -> Finding:
    """Not as it should be, with the reason and the next command."""
    return _finding("failed", asked, text, cause=cause, fix=fix, severity=severity)


def unreadable(asked: Asked, why: str, *, text: str | None = None, fix: str | None = None) -> Finding:
    """A command was run and did not tell; `text` is what it wrote instead."""
    return _finding("not_evaluated", asked, text or why, cause=why, fix=fix)


def not_asked(why: str) -> Finding:
    """No command was run for this check: there is nothing to ask, or another check tells."""
    return _finding("not_evaluated", None, why, cause=why)


Condition = Callable[[HostFacts], bool]
AskHost = Callable[[HostFacts], Finding | Iterable[Finding]]
AskHosts = Callable[[Sequence[HostFacts]], Iterable[tuple[str, Finding]]]

ON_GPUS: Final[Condition] = attrgetter("cuda")
IN_DOCKER: Final[Condition] = attrgetter("docker")
ON_GPUS_IN_DOCKER: Final[Condition] = attrgetter("cuda_in_docker")
OVER_HOSTS: Final[Condition] = attrgetter("several")


@dataclass(frozen=True)
class Check:
    """One thing to check. `title` is what is expected, `cost` what asking costs; `ask` tells findings by host."""

    rule: str
    title: str
    cost: str
    applies: Condition = lambda _: True
    ask: AskHosts = lambda _: ()

    def finding(self, host: str, said: Finding) -> Finding:
        """What was said of a host, with the check's name and the host's."""
        evidence = said.evidence.with_(host=host) if said.evidence else None
        return said.with_(rule=self.rule, title=self.title, category="preflight", evidence=evidence)

    def __call__(self, *hosts: HostFacts) -> list[Finding]:
        """Ask one host, or all of a plan for a check that compares them.

        Raises:
            HostUnreachable: one does not answer.
        """
        return [self.finding(host, said) for host, said in self.ask(hosts)]


NAMES: Final = ("Docker", "Ray's")


def _title(ask: Callable[..., object]) -> str:
    """What a check expects: the first sentence of its docstring, with a small letter unless it begins with a name."""
    sentence = re.split(r"\.(?: |$)", " ".join((ask.__doc__ or "").split()), maxsplit=1)[0]
    word = sentence.split(" ", 1)[0]
    is_name = word in NAMES or not word[1:].islower()
    return sentence if is_name and len(word) > 1 else sentence[0].lower() + sentence[1:]


def check(rule: str, *, when: Condition = lambda _: True, cost: str = COMMAND) -> Callable[[AskHost], Check]:
    """Make a check of a function that asks one host. The first sentence of its docstring is what is expected."""

    def made(ask: AskHost) -> Check:
        def ask_one(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
            (host,) = hosts
            try:
                said = ask(host)
                for finding in [said] if isinstance(said, Finding) else said:
                    yield host.name, finding
            except FactUnreadable as error:
                yield host.name, error.finding

        return Check(rule, _title(ask), cost, when, ask_one)

    return made


def group_check(rule: str, *, when: Condition, cost: str = COMMAND) -> Callable[[AskHosts], Check]:
    """Make a check of a function that asks all hosts together; it is asked where `when` holds for the first."""
    return lambda ask: Check(rule, _title(ask), cost, when, ask)
