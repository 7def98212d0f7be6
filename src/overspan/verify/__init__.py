"""Is a live endpoint right? Every rule asks it and says passed, failed or not evaluated; nothing else is touched.

    findings = verify(subject_of(plan.recipe, plan.endpoint, api_key), SHORT)
    if wrong(findings):
        ...  # its numbers do not count

The short form takes some 25 answers of 48 tokens or less (a few seconds on a GPU): known answers, streamed against
whole text, a burst, and broken characters in any of them. The full form takes some 130.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from overspan.endpoint.client import NoAnswer
from overspan.schema.finding import Finding
from overspan.verify import known_answers, load, parsing, text
from overspan.verify.logits import logits
from overspan.verify.reference import Reference, stored
from overspan.verify.subject import DRAWN, Asker, Subject, failed, not_evaluated, subject_of

__all__ = ["RULES", "SHORT", "Reference", "Subject", "VerifyRule", "stored", "subject_of", "verify", "wrong"]

VerifyRule = Callable[[Asker, Subject], Finding]
RULES: Final[dict[str, VerifyRule]] = {
    "verify.streamed": text.streamed,
    "verify.stop": text.stop_strings,
    "verify.max-tokens": text.max_tokens,
    "verify.usage": text.usage,
    "verify.repetition": text.repetition,
    "verify.sequence": load.sequence,
    "verify.burst": load.burst,
    "verify.tool-calls": parsing.tool_calls,
    "verify.reasoning": parsing.reasoning,
    "verify.logits": logits,
    # Last: it looks at every answer that the others got.
    "verify.characters": text.characters,
}
SHORT: Final[dict[str, VerifyRule]] = {
    "verify.streamed": text.streamed,
    "verify.burst": load.short_burst,
    "verify.characters": text.characters,
}

_OF_MEANING: Final = {f"verify.{name}" for name in ("repetition", "tool-calls", "reasoning", "logits", "characters")}
"""Not asked of weights that were drawn."""
_OF_TEXT: Final = {f"verify.{name}" for name in ("streamed", "stop")}
"""Drawn weights give near-equal texts, of which rounding makes one of the other: a difference is no fault of these."""


def verify(
    subject: Subject, rules: Mapping[str, VerifyRule] = RULES, found: Callable[[Finding], None] = lambda finding: None
) -> list[Finding]:
    """Every finding on an endpoint, in the order of the rules.

    A rule that gets no answer has failed, with what the endpoint said. Once the endpoint gives no token any more, the
    rules that are left are not evaluated. Nothing is raised for what the endpoint does.

    Args:
        subject: the endpoint and what is known of it: `subject_of(recipe, endpoint, api_key)`.
        rules: all, or those of SHORT alone, before numbers are trusted. Known answers are always asked.
        found: told each finding as soon as it is there.
    """
    ask = Asker(subject.endpoint, subject.api_key)
    findings: list[Finding] = []
    try:
        for finding in _findings(ask, subject, rules):
            found(finding)
            findings.append(finding)
    finally:
        ask.close()
    return findings


def wrong(findings: Iterable[Finding]) -> list[Finding]:
    """Those that say that the endpoint is not right."""
    return [finding for finding in findings if finding.is_error]


def _findings(ask: Asker, subject: Subject, rules: Mapping[str, VerifyRule]) -> Iterator[Finding]:
    gone: NoAnswer | None = None
    for finding in known_answers.ask(ask, subject.known_answers, drawn=subject.drawn):
        yield finding
        gone = gone or (_gone(ask) if finding.status == "failed" else None)
    for name, rule in rules.items():
        if gone is not None:
            finding = not_evaluated(f"the endpoint gives no token any more: {gone.what}")
        elif subject.drawn and name in _OF_MEANING:
            finding = not_evaluated(DRAWN)
        else:
            try:
                finding = rule(ask, subject)
                if subject.drawn and name in _OF_TEXT and finding.status == "failed":
                    finding = not_evaluated(f"{finding.cause}; but {DRAWN}")
            except NoAnswer as error:
                finding = failed(error.quote or error.what, error.what)
            gone = _gone(ask) if finding.status == "failed" else None
        yield finding.with_(rule=name)


def _gone(ask: Asker) -> NoAnswer | None:
    """Why the endpoint gives no token, if it does not."""
    try:
        ask.one_token()
    except NoAnswer as error:
        return error
    return None
