"""`overspan doctor`: from what a run left, or any log, to the cause and the fix."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overspan.schema.errors import InputError

if TYPE_CHECKING:
    from overspan.checks.doctor.sources import LogSource
    from overspan.schema.finding import Evidence, Finding


@click.command()
@click.argument("run", required=False)
@click.option("--log", "logs", multiple=True, type=click.Path(path_type=Path), help="a log file; may stand repeatedly")
@click.option("--rules", "rules", multiple=True, type=click.Path(path_type=Path), help="a folder of your own rules")
@click.option("--json", "as_json", is_flag=True, help="one JSON list of findings on stdout, the root cause first")
def doctor(run: str | None, logs: tuple[Path, ...], rules: tuple[Path, ...], as_json: bool) -> None:
    """Name the cause and the fix, from a RUN, from log files, or from text on standard input (`-`).

    Exit code 0: nothing known has failed. 1: something has. 2: what was given cannot be read.
    """
    from overspan.checks.doctor import diagnose
    from overspan.checks.doctor.fill import RunContext

    sources = _sources(run, logs)
    findings = diagnose(sources, RunContext(), rule_folders=rules)
    if as_json:
        click.echo(json.dumps([finding.model_dump(mode="json") for finding in findings]))
    else:
        _show(findings)
    if any(finding.status == "failed" and finding.severity == "error" for finding in findings):
        sys.exit(1)


def _sources(run: str | None, logs: tuple[Path, ...]) -> list[LogSource]:
    from overspan.checks.doctor.sources import LogSource

    if run == "-":
        return [LogSource("-", stream=sys.stdin.buffer)]
    if run is not None:
        raise InputError(f"no run '{run}'", next="overspan doctor --log FILE")
    if not logs:
        raise InputError("nothing to read", next="overspan doctor RUN, --log FILE, or - for standard input")
    for log in logs:
        if not log.exists():
            raise InputError(f"{log}: no such file", next="overspan doctor --log FILE")
    return [LogSource(str(log), path=log) for log in logs]


def _show(findings: list[Finding]) -> None:
    failed = [finding for finding in findings if finding.status == "failed"]
    unknown = [finding for finding in findings if finding.status == "not_evaluated" and finding.evidence]
    for finding in [*failed, *unknown]:
        _show_one(finding)
    counts = {status: sum(f.status == status for f in findings) for status in ("failed", "not_evaluated", "passed")}
    if not failed and not unknown:
        click.echo("Nothing that the doctor knows has failed, and no line looks like an error.")
    click.echo(
        f"{len(findings)} rules: {counts['failed']} failed, {counts['not_evaluated']} not evaluated, "
        f"{counts['passed']} passed",
        err=True,
    )


def _show_one(finding: Finding) -> None:
    label = {"root": "cause", "consequence": "also", "sign": "sign"}.get(finding.role or "", finding.status)
    sure = f" (confidence {finding.confidence:.0%})" if finding.confidence else ""
    click.echo(f"{label}: {finding.title} [{finding.rule}]{sure}")
    if finding.evidence:
        _quote(finding.evidence)
    brief = finding.role == "consequence"
    for evidence in [] if brief else finding.more:
        _quote(evidence)
    if not brief:
        click.echo(f"  why: {finding.cause}")
        click.echo(f"  fix: {finding.fix}")
    click.echo()


def _quote(evidence: Evidence) -> None:
    where = ":".join(str(part) for part in (evidence.file, evidence.line) if part is not None)
    who = f" ({evidence.process})" if evidence.process else ""
    first, *rest = evidence.text.splitlines() or [""]
    click.echo(f"  {where}{who}")
    for line in [first, *rest[:5]]:
        click.echo(f"    | {line}")
