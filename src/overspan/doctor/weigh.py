"""Which of a rule's causes it is: told by what else the logs hold, and never surer than they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overspan.doctor.context import RunContext
from overspan.doctor.patterns import compile_rule_pattern
from overspan.doctor.rules import AGAINST, SEEN, LogRule, PossibleCause
from overspan.doctor.scan import Hit, LogScan

OPEN, BY_EXCLUSION, SHOWN = 0.5, 0.7, 0.9
"""How sure a finding is: several causes are left; the logs exclude all others; the logs show it. A choice."""


@dataclass(frozen=True)
class Verdict:
    """What a rule says of these logs. `more` are the lines that tell which cause it is, with the log's place."""

    cause: str
    fix: str
    trust: float
    is_open: bool = False
    more: Sequence[tuple[int, Hit]] = ()


NONE = Verdict("", "", 0.0)


def weigh(index: int, rule: LogRule, hits: Sequence[Hit], scans: Sequence[LogScan], context: RunContext) -> Verdict:
    """The cause among the rule's that the logs show; else all that they do not exclude."""
    if not rule.causes:
        return Verdict(rule.cause, rule.fix, rule.trust)
    typed = " ".join(context.commands.values()).encode()

    def seen(kind: str, patterns: Sequence[str]) -> list[tuple[int, Hit]] | bool:
        tallies = ((place, key, tally) for place, scan in enumerate(scans) for key, tally in scan.tallies.items())
        lines = [(at, hit) for at, key, one in tallies if key[:2] == (index, kind) for hit in one.first.values()]
        return lines or any(compile_rule_pattern(one).search(typed) for one in patterns)

    left: list[PossibleCause] = []
    for place, each in enumerate(rule.causes):
        if seen(f"{AGAINST}{place}", each.not_with):
            continue
        shown = seen(f"{SEEN}{place}", each.seen_by)
        if shown or any(_differ(each, hit.groups) for hit in hits):
            own = {hit.line for hit in hits}
            lines = [(at, hit) for at, hit in shown if hit.line not in own] if isinstance(shown, list) else []
            return Verdict(f"{each.why}.", each.fix or rule.fix, max(rule.trust, SHOWN), more=lines)
        left.append(each)
    if rule.confidence is not None:  # the list is not whole
        return Verdict(rule.cause, rule.fix, rule.trust)
    if len(left) == 1:
        why = f"{left[0].why}; what the logs hold excludes the other causes."
        return Verdict(why, left[0].fix or rule.fix, max(rule.trust, BY_EXCLUSION))
    told = [f"({number}) {each.why}" + (f" [{each.tell}]" if each.tell else "") for number, each in enumerate(left, 1)]
    said = f"{rule.cause} It can be: {'; '.join(told)}." if told else rule.cause
    return Verdict(said, rule.fix, min(rule.trust, OPEN), is_open=True)


def _differ(each: PossibleCause, named: Mapping[str, str]) -> bool:
    pair = [named.get(name) for name in each.differ or ()]
    return len(set(pair)) == 2 and all(pair)
