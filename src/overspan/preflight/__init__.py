"""Before a launch: everything that can be asked of the hosts, side by side, each answer a finding with its command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.preflight.book import CHECKS, GROUP_CHECKS
from overspan.preflight.facts import Check, HostFacts, failed, not_asked, passed, side_by_side
from overspan.schema.errors import HostKeyRejected, HostUnreachable
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport
from overspan.transport.ssh import by_hand

SSH: Final = Check("preflight.ssh", "the host answers over ssh", "one connection, kept")
HOST_KEY: Final = Check("preflight.host_key", "the host's key is the known one", "nothing beside ssh")
"""These two come from opening the connection itself."""

OPEN_TIMEOUT_S: Final = 20.0


def preflight(
    plan: Plan, reach: Callable[[Host], Transport], processes: list[ProcessSpec], only: Container[str] | None = None
) -> list[Finding]:
    """Check all that the plan needs of its hosts. Nothing is changed there and nothing is started that stays.

    Args:
        plan: what will run; only what applies to it is asked.
        reach: the way to a host. The transports are closed at the end.
        processes: the plan's processes, for ports, options and environment.
        only: the rules of the checks that are asked; all of them where not given.

    Returns:
        Findings in the order of the plan's hosts, then those over all hosts. A host that does not answer has one
        failed finding, and its other checks are `not_evaluated`, with the reason.
    """
    by_name = {host.name: host for host in plan.inventory.hosts}
    hosts = tuple(by_name[name] for name in dict.fromkeys(placement.host for placement in plan.placements))
    wanted = [
        HostFacts(plan, host, hosts, tuple(spec for spec in processes if spec.host == host.name), reach(host))
        for host in hosts
        if plan.part in (None, host.name)
    ]
    try:
        asked = side_by_side(wanted, lambda host: _ask(host, only))
        answering = [host for host, (_, gone) in asked if gone is None]
        groups = _applying(GROUP_CHECKS, wanted[0], only)
        with ThreadPoolExecutor(max(1, len(groups))) as pool:
            together = list(pool.map(lambda check: _together(check, answering), groups))
    finally:
        for host in wanted:
            host.transport.close()
    findings = [finding for _, (found, _) in asked for finding in found]
    for check, found in zip(groups, together, strict=True):
        findings += [*found, *(_silent(check, host, gone) for host, (_, gone) in asked if gone is not None)]
    return findings


def _applying(checks: Sequence[Check], host: HostFacts, only: Container[str] | None) -> list[Check]:
    return [check for check in checks if (only is None or check.rule in only) and check.applies(host)]


def _ask(host: HostFacts, only: Container[str] | None) -> tuple[list[Finding], HostUnreachable | None]:
    """Every check of one host; the first that meets silence ends the asking, and is returned."""
    opening, gone = _open(host)
    findings: list[Finding] = []
    for check in _applying(CHECKS, host, only):
        if gone is None:
            try:
                findings += check(host)
                continue
            except HostUnreachable as error:
                opening, gone = _gone(host, error), error
        findings.append(_silent(check, host, gone))
    return [*opening, *findings], gone


def _open(host: HostFacts) -> tuple[list[Finding], HostUnreachable | None]:
    """Open the connection. This machine needs none, so nothing is said of it."""
    if host.entry.ssh is None:
        return [], None
    try:
        host.transport.run(["true"], timeout_s=OPEN_TIMEOUT_S)
    except HostUnreachable as error:
        return _gone(host, error), error
    command = _command(host)
    answered = passed(command, f"{host.name} ({host.entry.ssh.address}) answers")
    known = passed(command, "the host key is the one in known_hosts")
    return [SSH.finding(host.name, answered), HOST_KEY.finding(host.name, known)], None


def _gone(host: HostFacts, error: HostUnreachable) -> list[Finding]:
    """One failed finding: of the key where that is the reason, else of the connection."""
    failure = failed(_command(host), error.quote or error.what, cause=error.what, fix=error.next)
    other = not_asked(f"not asked: {error.what}")
    by_key = isinstance(error, HostKeyRejected)
    return [
        SSH.finding(host.name, other if by_key else failure),
        HOST_KEY.finding(host.name, failure if by_key else other),
    ]


def _command(host: HostFacts) -> list[str]:
    return ["true"] if host.entry.ssh is None else shlex.split(by_hand(host.entry.ssh, "true"))


def _together(check: Check, hosts: Sequence[HostFacts]) -> list[Finding]:
    try:
        return check(*hosts) if hosts else []
    except HostUnreachable as error:
        return [_silent(check, host, error) for host in hosts]


def _silent(check: Check, host: HostFacts, error: HostUnreachable) -> Finding:
    return check.finding(host.name, not_asked(f"not asked: {error.what}"))


def blocking(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Those that will make the launch fail; a warning does not."""
    return (finding for finding in findings if finding.is_error)


def unreachable(findings: Sequence[Finding]) -> bool:
    """Whether a host does not answer, or not with the key that is known."""
    return any(finding.status == "failed" and finding.rule in {SSH.rule, HOST_KEY.rule} for finding in findings)
