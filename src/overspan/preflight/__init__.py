"""Before a launch: everything that can be asked of the hosts, side by side, each answer a finding with its command."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from overspan.preflight.access import Access, open_site
from overspan.preflight.book import CHECKS, GROUP_CHECKS
from overspan.preflight.site import GroupCheck, Rule, Site, as_finding, untold
from overspan.schema.errors import HostUnreachable
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.transport.base import Transport

HOSTS_AT_ONCE = 32


def preflight(plan: Plan, reach: Callable[[Host], Transport], processes: list[ProcessSpec]) -> list[Finding]:
    """Check all that the plan needs of its hosts. Nothing is changed there and nothing is started that stays.

    Args:
        plan: what will run; only what applies to it is asked.
        reach: the way to a host. The transports are closed at the end.
        processes: the plan's processes, for ports, options and environment.

    Returns:
        Findings in the order of the plan's hosts, then those over all hosts. A host that does not answer has one
        failed finding, and its other checks are `not_evaluated`, with the reason.
    """
    sites = _sites(plan, reach, processes)
    try:
        with ThreadPoolExecutor(min(len(sites), HOSTS_AT_ONCE)) as pool:
            asked = list(pool.map(_ask, sites))
            answering = [each.site for each in asked if each.gone is None]
            groups = [check for check in GROUP_CHECKS if check.applies(sites[0])]
            together = list(pool.map(lambda check: _together(check, answering), groups))
    finally:
        for site in sites:
            site.transport.close()
    gone = [(each.site, each.gone) for each in asked if each.gone is not None]
    findings = [finding for each in asked for finding in each.findings]
    for check, found in zip(groups, together, strict=True):
        findings += [*found, *(_silent(check, site, error) for site, error in gone)]
    return findings


def _sites(plan: Plan, reach: Callable[[Host], Transport], processes: Sequence[ProcessSpec]) -> list[Site]:
    by_name = {host.name: host for host in plan.inventory.hosts}
    names = dict.fromkeys(placement.host for placement in plan.placements)
    hosts = tuple(by_name[name] for name in names)
    asked = [host for host in hosts if plan.part in (None, host.name)]
    return [
        Site(plan, host, hosts, tuple(spec for spec in processes if spec.host == host.name), reach(host))
        for host in asked
    ]


def _ask(site: Site) -> Access:
    """Every check of one host; the first that meets silence ends the asking."""
    access = open_site(site)
    findings: list[Finding] = []
    for check in (check for check in CHECKS if check.applies(site)):
        if access.gone is not None:
            findings.append(_silent(check, site, access.gone))
            continue
        try:
            findings += [as_finding(check, site.name, verdict) for verdict in check.ask(site)]
        except HostUnreachable as error:
            access = access.lost(error)
            findings.append(_silent(check, site, error))
    return Access(site, [*access.findings, *findings], access.gone)


def _together(check: GroupCheck, sites: Sequence[Site]) -> list[Finding]:
    if not sites:
        return []
    try:
        return [as_finding(check, host, verdict) for host, verdict in check.ask(sites)]
    except HostUnreachable as error:
        return [_silent(check, site, error) for site in sites]


def _silent(check: Rule, site: Site, error: HostUnreachable) -> Finding:
    return as_finding(check, site.name, untold(f"not asked: {error.what}"))


def failed(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Those that will make the launch fail; a warning does not."""
    return (finding for finding in findings if finding.status == "failed" and finding.severity == "error")


def unreachable(findings: Sequence[Finding]) -> bool:
    """Whether a host does not answer, or not with the key that is known."""
    return any(
        finding.status == "failed" and finding.rule in ("preflight.ssh", "preflight.host_key") for finding in findings
    )
