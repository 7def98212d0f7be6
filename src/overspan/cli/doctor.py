"""`overspan doctor`: from what a run left, or any log, to the cause and the fix."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overspan.cli.options import INVENTORY, MODEL, PATH, RUN
from overspan.cli.output import counted, document, say
from overspan.cli.preflight import check_before_launch
from overspan.schema.errors import InputError
from overspan.schema.paste import command

if TYPE_CHECKING:
    from overspan.schema.finding import Evidence, Finding


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--log", "logs", multiple=True, type=PATH, help="A log file. Give it once for each file.")
@click.option("--rules", "rules", multiple=True, type=PATH, help="A folder with rules of your own.")
@click.option(
    "--preflight", "recipe", type=MODEL, metavar="RECIPE", help="Before a launch: check on the hosts what RECIPE needs."
)
@click.option("--on", "inventory", type=INVENTORY, help="With --preflight: the machines. Default: this one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="With --preflight: override a field.")
@click.option("--bundle", type=PATH, help="Pack RUN into one file for another engineer, without secrets.")
@click.option(
    "--all", "everything", is_flag=True, help="With --json: the rules that passed too, or had nothing to read."
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings that matter as JSON, the root cause first.")
def doctor(  # noqa: PLR0917 - click gives them by name
    run: str | None,
    logs: tuple[Path, ...],
    rules: tuple[Path, ...],
    recipe: str | None,
    inventory: str | None,
    settings: tuple[str, ...],
    bundle: Path | None,
    everything: bool,
    as_json: bool,
) -> int:
    """Name the cause and the fix of a failure: of RUN (default: the newest), of log files, or of standard input (`-`).

    Exit code: 0 no known failure, 1 a failure, 2 the input cannot be read. With --preflight: 0 the launch may begin,
    2 a check failed, 4 a host does not answer.
    """
    if recipe is not None:
        if run is not None or logs or rules or bundle:
            raise InputError("--preflight looks at hosts, not at a run or its logs", next="overspan doctor RUN")
        return check_before_launch(recipe, inventory, settings, as_json=as_json)
    if inventory or settings:
        raise InputError("--on and --set need --preflight", next="overspan doctor --preflight RECIPE --on INVENTORY")
    findings = _findings(run, logs, rules)
    if bundle is not None:
        _pack(run, logs, findings, bundle)
    if as_json:
        document(findings if everything else [each for each in findings if each.matters])
    else:
        _show(findings)
    return _exit_code(findings)


def _exit_code(findings: list[Finding]) -> int:
    from overspan.doctor.judge import UNREADABLE

    if any(finding.is_error for finding in findings):
        return 1
    return 2 if any(finding.rule == UNREADABLE for finding in findings) else 0


def _pack(run: str | None, logs: tuple[Path, ...], findings: list[Finding], out: Path) -> None:
    from overspan.doctor.bundle import write_bundle
    from overspan.store.run_folder import open_run

    if run == "-" or logs:
        raise InputError("--bundle packs a run", next=f"overspan doctor RUN {command('--bundle', out)}")
    whole = json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2)
    removed = write_bundle(open_run(run).path, whole, out)
    say(f"{out}: {removed} lines had a secret taken out; look through it before you send it")


def _findings(run: str | None, logs: tuple[Path, ...], rules: tuple[Path, ...]) -> list[Finding]:
    from overspan.doctor import diagnose
    from overspan.doctor.sources import LogSource

    if run is not None and logs:
        raise InputError("give a run or log files, not both", next="overspan doctor RUN")
    if run == "-":
        return diagnose([LogSource("-", stream=sys.stdin.buffer)], rule_folders=rules)
    if not logs:
        from overspan.doctor.of_run import examine
        from overspan.store.run_folder import open_run

        try:
            return examine(open_run(run), rules, say)
        except PermissionError as error:
            who = "ask as the user who started the run"
            raise InputError(f"{error.filename}: {error.strerror}", next=who) from None
    for log in logs:
        try:
            is_folder = stat.S_ISDIR(log.stat().st_mode)
        except FileNotFoundError:
            raise InputError(f"{log}: no such file", next="overspan doctor --log FILE") from None
        except OSError as error:
            raise InputError(f"{log}: {error.strerror}", next="ask as a user who may read it") from None
        if is_folder:
            raise InputError(
                f"{log}: a folder, not a file", next=f"{command('overspan', 'doctor', '--log', log)}/*.log"
            )
    return diagnose([LogSource(str(log), path=log) for log in logs], rule_folders=rules)


def _show(findings: list[Finding]) -> None:
    matter = [finding for finding in findings if finding.matters]
    for finding in matter:
        _show_one(finding)
    if not any(finding.status == "passed" for finding in findings) and not matter:
        click.echo("There is nothing to check: the logs are empty.")
    elif not matter:
        click.echo("The doctor found no known failure, and no line looks like an error.")
    say(counted(findings))


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
