"""`overspan verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overspan.cli.output import Ticker, document, say

if TYPE_CHECKING:
    from overspan.checks.verify import Reference, Subject
    from overspan.schema.finding import Finding

_MARKS = {"passed": "passed", "failed": "FAILED", "not_evaluated": "not evaluated"}


@click.command()
@click.argument("run", required=False)
@click.option("--base-url", help="Verify this OpenAI endpoint, such as http://127.0.0.1:8000/v1, in place of a run.")
@click.option("--model", help="Name in the API. Default: the only one served.")
@click.option("--short", is_flag=True, help="The rules that must hold before a measurement counts; some 20 answers.")
@click.option("--expect", multiple=True, type=click.Choice(["tool-calls", "reasoning"]), help="Of --base-url: it has.")
@click.option("--reference", type=click.Path(path_type=Path), help="Compare log probabilities with this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
def verify(run: str | None, base_url: str | None, as_json: bool, **how: Any) -> int:
    """Ask RUN (default: the active one) whether it is right: known answers, streams, stop strings, counts, characters,
    repetition, twenty requests in sequence, a burst, tool calls, reasoning, and log probabilities where a reference is
    stored.

    Exit code 0 where nothing failed, 1 where something did. An endpoint's key is taken from OVERSPAN_API_KEY.
    """
    from overspan.checks.verify import RULES, SHORT, wrong
    from overspan.checks.verify import verify as ask_all
    from overspan.checks.verify.reference import load
    from overspan.runs.folder import open_run
    from overspan.runs.verifying import verify_run
    from overspan.schema.errors import InputError

    if run is not None and base_url is not None:
        raise InputError("RUN and --base-url exclude each other", next="give one of them")
    if base_url is None and (how["model"] or how["expect"]):
        raise InputError("--model and --expect are for --base-url: a run's recipe tells them", next="leave them out")
    reference = load(how["reference"]) if how["reference"] else None
    rules = SHORT if how["short"] else RULES
    ticker = Ticker()

    def found(finding: Finding) -> None:
        ticker.clear()
        if not as_json:
            click.echo(_line(finding))
        ticker.show(f"after {finding.rule.removeprefix('verify.')}")

    try:
        if base_url is None:
            findings = verify_run(open_run(run), rules, reference=reference, found=found)
        else:
            findings = ask_all(_subject(base_url, reference, how), rules, found)
    finally:
        ticker.clear()
    if as_json:
        document(findings)
    bad = wrong(findings)
    if not as_json:
        say(f"{len(bad)} of {len(findings)} failed" if bad else "nothing failed")
    return 1 if bad else 0


def _subject(base_url: str, reference: Reference | None, how: dict[str, Any]) -> Subject:
    from overspan.checks.verify import Subject
    from overspan.checks.verify.identify import identify
    from overspan.runs import keys

    key = keys.given()
    return Subject(
        identify(base_url, how["model"], key),
        key,
        tools="asked" if "tool-calls" in how["expect"] else "unknown",
        reasoning="asked" if "reasoning" in how["expect"] else "unknown",
        reference=reference,
    )


def _line(finding: Finding) -> str:
    lines = [f"{_MARKS[finding.status]:<13}  {finding.rule.removeprefix('verify.')}"]
    if finding.status != "passed" and finding.cause:
        lines[0] += f": {finding.cause}"
    elif finding.evidence:
        lines[0] += f": {finding.evidence.text}"
    if finding.status == "failed" and finding.evidence:
        lines.append(f"  | {finding.evidence.text}")
    if finding.status == "failed" and finding.fix:
        lines.append(f"  fix: {finding.fix}")
    return "\n".join(lines)
