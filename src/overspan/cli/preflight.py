"""`overspan doctor --preflight`: the hosts are asked, and what is in the way is told with the command that mends it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from overspan.cli.output import counted, document, say
from overspan.schema.errors import HostUnreachable, InputError

if TYPE_CHECKING:
    from overspan.schema.finding import Finding


def check_before_launch(recipe: str, inventory: str | None, settings: tuple[str, ...], *, as_json: bool) -> int:
    """Plan, ask every host, print; gives the exit code."""
    from overspan.preflight import blocking, preflight, unreachable
    from overspan.runs.planning import Wanted, plan_of, processes_of
    from overspan.transport.reach import reach

    plan = plan_of(Wanted(recipe, inventory, settings), to_start=False)
    findings = preflight(plan, reach, processes_of(plan))
    if as_json:
        document(findings)
    else:
        _show(findings)
    if unreachable(findings):
        return HostUnreachable.exit_code
    return InputError.exit_code if any(blocking(findings)) else 0


def _show(findings: list[Finding]) -> None:
    silent: dict[tuple[str | None, str | None], list[str]] = {}
    for finding in findings:
        host = finding.evidence.host if finding.evidence else None
        if finding.status == "not_evaluated" and finding.evidence and not finding.evidence.command:
            silent.setdefault((host, finding.cause), []).append(finding.rule)
        else:
            _show_one(finding, host)
    for (host, cause), rules in silent.items():
        click.echo(f"unknown   {host}: {cause} [{', '.join(rules)}]")
    say(counted(findings))


def _show_one(finding: Finding, host: str | None) -> None:
    label = {"not_evaluated": "unknown", "failed": finding.severity}.get(finding.status, "ok")
    click.echo(f"{label:8}  {host}: {finding.title} [{finding.rule}]")
    if finding.status == "passed" or finding.evidence is None:
        return
    if finding.evidence.command:
        click.echo(f"    $ {shlex.join(finding.evidence.command)}")
    if finding.evidence.text and finding.evidence.text != finding.cause:
        click.echo(f"    | {finding.evidence.text}")
    click.echo(f"  why: {finding.cause}")
    if finding.fix:
        click.echo(f"  fix: {finding.fix}")
