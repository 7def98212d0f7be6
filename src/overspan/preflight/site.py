"""One host of a plan as preflight sees it, and what a check may say about it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from overspan.engines import registry
from overspan.engines.base import Engine
from overspan.inventory.fact import Capture, Fact, Seen, Value
from overspan.inventory.probes import look
from overspan.schema.finding import Evidence, Finding, Status
from overspan.schema.inventory import Gpu, Host
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport
from overspan.transport.ssh import by_hand

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Site:
    """A host, the way to it, and what the plan wants of it. `hosts` are all of the plan's, the head first."""

    plan: Plan
    host: Host
    hosts: tuple[Host, ...]
    specs: tuple[ProcessSpec, ...]
    transport: Transport
    seen: dict[str, tuple[Seen[Any], Capture]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.host.name

    @property
    def is_head(self) -> bool:
        """Whether rank 0 lives here."""
        return self.host.name == self.hosts[0].name

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
    def gpus(self) -> list[Gpu]:
        """The GPUs of this host that the plan uses."""
        wanted = {index for each in self.plan.placements if each.host == self.name for index in each.gpus}
        return [gpu for gpu in self.host.gpus if gpu.index in wanted]

    @property
    def ranks(self) -> int:
        """Ranks on this host."""
        return sum(len(each.ranks) for each in self.plan.placements if each.host == self.name)

    def look(self, fact: Fact[Value]) -> tuple[Seen[Value], Capture]:
        """A fact of this host; see `probes.look`."""
        return look(self.transport, fact)

    def look_once(self, fact: Fact[Value]) -> tuple[Seen[Value], Capture]:
        """The same, where several checks read one fact: it is asked once."""
        if fact.name not in self.seen:
            self.seen[fact.name] = self.look(fact)
        return self.seen[fact.name]

    def setting(self, name: str) -> list[str]:
        """The values that this host's processes have of one variable; none where it is not set."""
        return list(dict.fromkeys(spec.env[name] for spec in self.specs if spec.env.get(name)))

    def paste(self, *argv: str) -> str:
        """The command to run from this machine so that `argv` runs on the host, to be pasted into a shell."""
        text = shlex.join(argv)
        return text if self.host.ssh is None else by_hand(self.host.ssh, text)


@dataclass(frozen=True)
class Verdict:
    """What a check found on one host; the check's rule and the host are added by `as_finding`."""

    status: Status
    text: str
    command: list[str] | None = None
    cause: str | None = None
    fix: str | None = None
    severity: Severity = "error"


def good(capture: Capture, text: str) -> Verdict:
    """As it should be."""
    return Verdict("passed", text, capture.argv, severity="info")


def bad(capture: Capture, text: str, *, cause: str, fix: str, severity: Severity = "error") -> Verdict:
    """Not as it should be, with the reason and the next command."""
    return Verdict("failed", text, capture.argv, cause, fix, severity)


def unknown(capture: Capture, why: str, *, fix: str | None = None) -> Verdict:
    """It could not be told, and why."""
    return Verdict("not_evaluated", why, capture.argv, why, fix, "info")


def untold(why: str) -> Verdict:
    """No command was run, and why."""
    return Verdict("not_evaluated", why, cause=why, severity="info")


@dataclass(frozen=True)
class Rule:
    """One thing to check. `title` is what is expected, `cost` what asking costs."""

    rule: str
    title: str
    cost: str


@dataclass(frozen=True)
class Check(Rule):
    """Asked of every host by itself."""

    applies: Callable[[Site], bool]
    ask: Callable[[Site], Sequence[Verdict]]


@dataclass(frozen=True)
class GroupCheck(Rule):
    """Asked of all hosts together; the answer tells each host's name."""

    applies: Callable[[Site], bool]
    ask: Callable[[Sequence[Site]], Sequence[tuple[str, Verdict]]]


def as_finding(check: Rule, host: str, verdict: Verdict) -> Finding:
    """A verdict with its rule and host."""
    return Finding(
        rule=check.rule,
        status=verdict.status,
        evidence=Evidence(text=verdict.text, host=host, command=verdict.command),
        cause=verdict.cause,
        fix=verdict.fix,
        severity=verdict.severity,
        title=check.title,
        category="preflight",
    )
