"""`overspan verify`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overspan.cli.options import AS_JSON, COUNT, NEW_FILE, PATH, RUN, Finite
from overspan.cli.output import Ticker, document, say
from overspan.schema.secrets import Secret
from overspan.schema.units import count

if TYPE_CHECKING:
    from overspan.endpoint.client import Addressed
    from overspan.schema.finding import Finding
    from overspan.store.run_folder import RunFolder

_MARKS = {"passed": "passed", "failed": "FAILED", "not_evaluated": "not evaluated"}
_OF_EVAL = ("samples", "temperature", "max_tokens", "concurrency")
_MANNERS = ("harness", "record", "questions", "short")
"""What is done in place of asking every rule: one at a time."""
_EXCLUDE = [
    ("run", "base_url"),
    *itertools.combinations(_MANNERS, 2),
    *itertools.product(_MANNERS, ("reference", "expect")),
]
_NEED = {"questions": ("against", "out", *_OF_EVAL), "base_url": ("model", "expect")}


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--base-url", help="Check this OpenAI endpoint, such as http://127.0.0.1:8000/v1.")
@click.option("--model", help="Name of the model in the API. Default: the only one that is served.")
@click.option("--short", is_flag=True, help="Check only what a measurement needs; about 25 answers.")
@click.option(
    "--expect",
    multiple=True,
    type=click.Choice(["tool-calls", "reasoning"]),
    help="The endpoint at --base-url supports this. If it is missing, that is a failure.",
)
@click.option("--reference", type=PATH, help="Compare log probabilities with those in this file.")
@click.option("--record", type=NEW_FILE, help="Write such a file from this endpoint, which must be right.")
@click.option(
    "--eval", "questions", type=PATH, help='Score the questions of this file. A line: {"prompt": ..., "answer": ...}.'
)
@click.option("--against", help="Compare the score with this result (.json) or this run, question by question.")
@click.option("--out", type=NEW_FILE, help="Write the result of --eval to this file too.")
@click.option("--samples", type=click.IntRange(1, 1000), default=1, help="Answers for each question.")
@click.option("--temperature", type=Finite(0, 2), default=0.0, help="For --eval.")
@click.option("--max-tokens", type=COUNT, default=512, help="For --eval.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=8, help="For --eval.")
@click.option(
    "--harness", type=click.Choice(["lm-eval", "evalscope"]), help="Print the command of this tool for the endpoint."
)
@AS_JSON
def verify(run: str | None, base_url: str | None, model: str | None, harness: str | None, **how: Any) -> int:
    """Check that the answers of RUN (default: the active run) are right.

    It checks known answers, streams, stop strings, token counts, characters, repetition, twenty requests in sequence,
    a burst, tool calls, reasoning, and log probabilities where a reference is stored. Exit code 1: a check failed.
    OVERSPAN_API_KEY holds an endpoint's key.
    """
    from overspan.endpoint.identify import at_url

    _require_fitting()
    aim = _of_run(run) if base_url is None else _Aim(*at_url(base_url, model))
    if harness is not None:
        return _harness(aim, harness, as_json=how["as_json"])
    if how["record"] is not None:
        return _record(aim, how["record"], as_json=how["as_json"])
    return _rules(aim, **how) if how["questions"] is None else _eval(aim, **how)


def _require_fitting() -> None:
    """Refuse options of which one would drop another.

    Raises:
        InputError: names both.
    """
    from overspan.schema.errors import InputError

    context = click.get_current_context()
    names = {
        each.name: each.human_readable_name if each.name == "run" else each.opts[0] for each in context.command.params
    }
    left = (None, click.core.ParameterSource.DEFAULT)
    given = {name for name in names if context.get_parameter_source(name) not in left}
    for one, other in _EXCLUDE:
        if one in given and other in given:
            raise InputError(f"{names[one]} and {names[other]} exclude each other", next="give one of them")
    for needed, others in _NEED.items():
        stray = [names[each] for each in others if each in given]
        if stray and needed not in given:
            what = f"{' and '.join(stray)} {'are' if len(stray) > 1 else 'is'} for {names[needed]}"
            raise InputError(what, next=f"give {names[needed]}, or leave {stray[0]} out")


def _write(option: str, out: Path, text: str) -> None:
    from overspan.schema.errors import OverspanError
    from overspan.store.files import write_out

    try:
        write_out(out, text)
    except OSError as error:
        raise OverspanError(f"{option} {out}: {error.strerror}") from None


@dataclass(frozen=True)
class _Aim:
    """What is asked: a run, or an endpoint by its URL."""

    endpoint: Addressed
    api_key: Secret | None
    run: RunFolder | None = None
    key_file: str | None = None


def _of_run(which: str | None) -> _Aim:
    from overspan.store import run_secrets
    from overspan.store.run_folder import open_run
    from overspan.verify.of_run import require_serving

    run = open_run(which)
    require_serving(run)
    return _Aim(run.plan().endpoint, run_secrets.key_of(run), run, run_secrets.file_of(run))


def _harness(aim: _Aim, harness: str, *, as_json: bool) -> int:
    from overspan.verify.evaluation import command

    line = command(harness, aim.endpoint, aim.key_file)
    if as_json:
        document({"harness": harness, "command": line})
    else:
        click.echo(line)
    return 0


def _record(aim: _Aim, out: Path, *, as_json: bool) -> int:
    from datetime import UTC, datetime

    from overspan.verify.reference import record

    plan = aim.run.plan() if aim.run else None
    what = f"{plan.layout.label}, engine {plan.engine.version}, run {aim.run.id}" if plan and aim.run else "an endpoint"
    source = f"{what} at {aim.endpoint.base_url}, {datetime.now(UTC):%Y-%m-%d}"
    found = record(aim.endpoint, source, aim.api_key)
    _write("--record", out, found.model_dump_json(indent=2) + "\n")
    tokens = sum(len(each.tokens) for each in found.continuations)
    if as_json:
        document({"reference": str(out), "model": found.model, "source": found.source, "tokens": tokens})
    else:
        say(f"{out}: {tokens} tokens of {found.model}")
    return 0


def _rules(aim: _Aim, *, as_json: bool, short: bool, reference: Path | None, expect: tuple[str, ...], **_: Any) -> int:
    from overspan.store.files import read_document
    from overspan.verify import RULES, SHORT, Reference, Subject, wrong
    from overspan.verify import verify as ask_all
    from overspan.verify.of_run import verify_run

    held = None if reference is None else read_document(reference, Reference, "reference")
    rules = SHORT if short else RULES
    ticker = Ticker()

    def found(finding: Finding) -> None:
        ticker.clear()
        if not as_json:
            click.echo(_line(finding))
        ticker.show(f"after {finding.rule.removeprefix('verify.')}")

    try:
        if aim.run is not None:
            findings = verify_run(aim.run, rules, reference=held, found=found)
        else:
            subject = Subject(
                aim.endpoint,
                aim.api_key,
                tools="asked" if "tool-calls" in expect else "unknown",
                reasoning="asked" if "reasoning" in expect else "unknown",
                reference=held,
            )
            findings = ask_all(subject, rules, found)
    finally:
        ticker.clear()
    bad = wrong(findings)
    if as_json:
        document(findings)
    else:
        say(f"{len(bad)} of {len(findings)} failed" if bad else "nothing failed")
    return 1 if bad else 0


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


def _eval(aim: _Aim, *, questions: Path, against: str | None, out: Path | None, as_json: bool, **how: Any) -> int:
    from overspan.verify.evaluation import compare, earlier, evaluate, keep, require_comparable
    from overspan.verify.questions import read

    asked = read(questions)
    other = None if against is None else earlier(against, questions)
    if other:
        require_comparable(questions, asked, how["samples"], other)
    ticker = Ticker()
    settings = {name: how[name] for name in _OF_EVAL}
    try:
        result = evaluate(
            aim.endpoint,
            aim.api_key,
            questions,
            asked,
            progress=lambda done: ticker.show(f"{done} of {len(asked) * how['samples']} answers"),
            **settings,
        )
    finally:
        ticker.clear()
    kept = keep(aim.run, result) if aim.run else None
    compared = compare(result, other) if other else None
    if as_json:
        document({**result.model_dump(mode="json"), "comparison": compared and compared.model_dump(mode="json")})
    else:
        click.echo(
            f"accuracy {result.accuracy:.3f}, 95 % interval {result.low:.3f} to {result.high:.3f}, "
            f"{count(len(asked), 'question')}, {count(result.samples, 'sample')} each"
        )
        if compared:
            click.echo(compared.text)
    if out is not None:
        _write("--out", out, result.model_dump_json(indent=2) + "\n")  # once it is told: a full disk loses nothing
    if result.unanswered:
        error = next(each.error for each in result.questions if each.error)
        say(f"{result.unanswered} requests were not answered, and count neither as right nor as wrong: {error}")
    if not as_json and kept:
        say(f"kept in {kept}; `overspan verify {aim.run.id if aim.run else ''} --harness lm-eval` runs a harness on it")
    return 1 if result.unanswered else 0
