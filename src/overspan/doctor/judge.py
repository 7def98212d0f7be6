"""From what the logs hold to findings: which rules failed, and which of them is the root."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from overspan.doctor.context import RunContext, fill
from overspan.doctor.endings import after_end
from overspan.doctor.patterns import compile_rule_pattern
from overspan.doctor.rules import STAGES, LogRule
from overspan.doctor.scan import Hit, LogScan, PatternCount
from overspan.doctor.times import on_one_scale
from overspan.doctor.weigh import NONE, Verdict, weigh
from overspan.schema.finding import Evidence, Finding, Status
from overspan.schema.versions import holds

UNKNOWN = "unknown-failure"
UNREADABLE = "log-unreadable"
_MOST_EVIDENCE = 16
_MOST_TEXT = 1000
_RANK = re.compile(r"(?:rank ?|\bTP|_TP|_DP|_PP|_EP)(\d+)", re.IGNORECASE)


@dataclass
class RuleResult:
    """One rule on all logs."""

    rule: LogRule
    status: Status
    reason: str | None = None
    weak: bool = False
    hits: list[tuple[int, Hit]] = field(default_factory=list)
    verdict: Verdict = NONE

    @property
    def tier(self) -> int:
        """How telling, from 0: a cause, ... a sign. A hint, or one cause of many, is no better than a general error."""
        is_vague = self.weak or self.verdict.is_open
        return STAGES.index("general" if is_vague and self.rule.stage == "cause" else self.rule.stage)


def judge(rules: Sequence[LogRule], scans: Sequence[LogScan], context: RunContext) -> list[Finding]:
    """Findings on every rule: failed ones first, the root at the top; then what is not known, not evaluated, passed."""
    results = [_result(index, rule, scans, context) for index, rule in enumerate(rules)]
    failed = _ordered([result for result in results if result.status == "failed"], scans, context)
    return [
        *(_failed(result, scans, context, root=place == 0) for place, result in enumerate(failed)),
        *_unknown(failed, scans, context),
        *_unreadable(scans),
        *(one.rule.finding(one.status, cause=one.reason) for one in results if one.status == "not_evaluated"),
        *(one.rule.finding(one.status, cause=one.reason) for one in results if one.status == "passed"),
    ]


def _result(index: int, rule: LogRule, scans: Sequence[LogScan], context: RunContext) -> RuleResult:
    if not any(scan.lines for scan in scans):
        return RuleResult(rule, "not_evaluated", "no log holds a line")
    if rule.needs and not any(_count(scan, index, "needs") for scan in scans):
        return RuleResult(rule, "not_evaluated", "the logs hold nothing that would show it")
    if rule.engine and context.engine_version and not holds(rule.engine, context.engine_version):
        return RuleResult(rule, "passed", "another engine version")
    if any(_count(scan, index, "unless") for scan in scans):
        return RuleResult(rule, "passed")
    for kinds, weak in ((("match",), False), (("match", "hints"), True)):
        hits = [
            (place, hit)
            for place, scan in enumerate(scans)
            for hit in _hits(index, rule, scan, _live(index, rule, scans, place, kinds), context)
            if _rank_fits(rule, scan, hit)
        ]
        if hits:
            hits = _merged(hits)
            verdict = weigh(index, rule, [hit for _, hit in hits], scans, context)
            return RuleResult(rule, "failed", weak=weak, hits=hits, verdict=verdict)
    return RuleResult(rule, "passed")


def _merged(hits: list[tuple[int, Hit]]) -> list[tuple[int, Hit]]:
    """One hit a line, with what every pattern named in it."""
    by_line: dict[tuple[int, int], Hit] = {}
    for place, hit in hits:
        known = by_line.get((place, hit.line))
        groups = {**known.groups, **hit.groups} if known else hit.groups
        longest = hit if known is None or hit.length > known.length else known
        by_line[place, hit.line] = replace(longest, groups=groups)
    return [(place, hit) for (place, _), hit in by_line.items()]


def _tallies(scan: LogScan, index: int, kind: str) -> list[tuple[int, PatternCount]]:
    patterns = ((key[2], tally) for key, tally in scan.tallies.items() if key[0] == index and key[1] == kind)
    return [(which, tally) for which, tally in patterns if tally.count]


def _count(scan: LogScan, index: int, kind: str) -> int:
    return sum(tally.count for _, tally in _tallies(scan, index, kind))


def _live(index: int, rule: LogRule, scans: Sequence[LogScan], place: int, kinds: Sequence[str]) -> list[PatternCount]:
    """What a log holds of the rule; what a server's parts say after its end in good order is no failure."""
    tallies = [tally for kind in kinds for _, tally in _tallies(scans[place], index, kind)]
    stays = rule.stage in {"cause", "sign"}
    return [tally for tally in tallies if stays or not tally.first or not after_end(scans[place], tally, scans)]


def _hits(index: int, rule: LogRule, scan: LogScan, tallies: list[PatternCount], context: RunContext) -> list[Hit]:
    if sum(tally.count for tally in tallies) < rule.at_least or not tallies:
        return []
    last = max(tally.last_line for tally in tallies)
    over = [(index, "recovered_by")]
    if not rule.after_ready and rule.stage != "sign":
        over.append((-1, "ready"))
    for owner, kind in over:
        if any(tally.last_line > last for _, tally in _tallies(scan, owner, kind)):
            return []
    if rule.needs_all and not _in_order(index, rule, scan, context.commands.get(scan.source.process or "", "")):
        return []
    return [hit for tally in tallies for hit in tally.first.values()]


def _in_order(index: int, rule: LogRule, scan: LogScan, command: str) -> bool:
    found = dict(_tallies(scan, index, "needs_all"))
    place = 0
    for which, pattern in enumerate(rule.needs_all):
        if which in found and found[which].last_line >= place:
            place = max(place, min(hit.line for hit in found[which].first.values()))
        elif place > 0 or not compile_rule_pattern(pattern).search(command.encode()):
            return False
    return True


def _rank_of(scan: LogScan, hit: Hit) -> int | None:
    named = _RANK.search(hit.stream)
    if named:
        return int(named.group(1))
    if hit.groups.get("rank", "").isdecimal():
        return int(hit.groups["rank"])
    return scan.source.ranks[0] if len(scan.source.ranks) == 1 else None


def _rank_fits(rule: LogRule, scan: LogScan, hit: Hit) -> bool:
    if rule.rank == "any":
        return True
    rank = _rank_of(scan, hit)
    return rank is None or (rank == 0) == (rule.rank == "first")


def _ordered(failed: list[RuleResult], scans: Sequence[LogScan], context: RunContext) -> list[RuleResult]:
    """The root first: by how telling, then by time where every hit has one, else by who died first and by place.

    Times whose order is a guess count after the deaths, which Overspan saw itself.
    """
    explained = {other for result in failed for other in result.rule.explains}
    first_tier = min((result.tier for result in failed), default=0)
    telling = [hit for result in failed if result.tier == first_tier for _, hit in result.hits]
    at, sure = _times([hit for result in failed for _, hit in result.hits], telling)

    def place_of(item: tuple[int, Hit]) -> tuple[float, float, float, int, int]:
        index, hit = item
        died = context.deaths.get(scans[index].source.process or "", inf)
        seconds = at.get(id(hit), inf) if at else 0.0
        return seconds if sure else 0.0, died, seconds, index, hit.line

    for result in failed:
        result.hits.sort(key=place_of)

    def key(result: RuleResult) -> tuple[int, bool, tuple[float, float, float, int, int], int]:
        first = result.hits[0]
        tier = result.tier
        if result.rule.id in explained and result.rule.stage != "sign":
            tier = max(tier, STAGES.index("consequence"))
        return tier, result.weak, place_of(first), -first[1].length

    return sorted(failed, key=key)


def _times(hits: Sequence[Hit], telling: Sequence[Hit]) -> tuple[dict[int, float], bool]:
    """Seconds of each hit by its id, and whether their order is sure; none unless all telling hits have a time."""
    stamped = [hit for hit in hits if hit.at is not None]
    if any(hit.at is None for hit in telling):
        return {}, False
    _, sure = on_one_scale([hit.at for hit in telling if hit.at is not None])
    seconds, _ = on_one_scale([hit.at for hit in stamped if hit.at is not None])
    return {id(hit): at for hit, at in zip(stamped, seconds, strict=True)}, sure


def _evidence(scan: LogScan, hit: Hit) -> Evidence:
    text = hit.text if len(hit.text) <= _MOST_TEXT else hit.text[:_MOST_TEXT] + " ..."
    return Evidence(
        text=text,
        file=scan.source.name,
        line=hit.line,
        host=scan.source.host or hit.groups.get("host"),
        process=scan.source.process or hit.stream or None,
        rank=_rank_of(scan, hit),
    )


def _failed(result: RuleResult, scans: Sequence[LogScan], context: RunContext, *, root: bool) -> Finding:
    rule = result.rule
    index, hit = result.hits[0]
    known = (hit.groups, context.host_facts.get(scans[index].source.host or "", {}), context.facts)
    said = result.verdict
    trust = said.trust * (0.6 if result.weak else 1.0) * (0.8 if rule.engine and not context.engine_version else 1.0)
    return rule.finding(
        "failed",
        role="sign" if rule.stage == "sign" else "root" if root else "consequence",
        evidence=_evidence(scans[index], hit),
        more=[_evidence(scans[at], one) for at, one in [*said.more[:2], *result.hits[1:]][:_MOST_EVIDENCE]],
        cause=fill(said.cause, *known),
        fix=fill(said.fix, *known),
        confidence=round(trust, 2),
        source=rule.source,
    )


def _unreadable(scans: Sequence[LogScan]) -> list[Finding]:
    return [
        Finding(
            rule=UNREADABLE,
            title="a log could not be read",
            status="not_evaluated",
            evidence=Evidence(text=scan.problem, file=scan.source.name, host=scan.source.host),
            cause=f"{scan.source.name}: {scan.problem}",
            fix="give a text log (plain or gzip) that you may read",
            severity="warning",
        )
        for scan in scans
        if scan.problem is not None
    ]


def _unknown(failed: Sequence[RuleResult], scans: Sequence[LogScan], context: RunContext) -> list[Finding]:
    """No cause is known: the earliest anomaly of each rank, side by side, the earliest of all first."""
    if any(result.tier <= STAGES.index("area") and result.rule.severity == "error" for result in failed):
        return []
    seen = [(place, hit) for place, scan in enumerate(scans) for hit in scan.anomalies.values()]
    seen = [(place, hit) for place, hit in seen if not _is_over(scans[place], hit)]
    no_error = not any(result.rule.severity == "error" for result in failed)
    if not seen and not context.failed:
        return []
    hits = [hit for _, hit in seen]
    at, _ = _times(hits, hits)
    seen.sort(key=lambda item: (at.get(id(item[1]), 0.0), item[0], item[1].line))
    evidence = [_evidence(scans[place], hit) for place, hit in seen]
    silent = [
        Evidence(text=f"(no error; last line) {scan.last_text}", file=scan.source.name, line=scan.lines)
        for scan in scans
        if not scan.anomalies and scan.lines
    ]
    shown = [*evidence, *silent]
    what = "only what follows from the cause was found, not the cause" if failed else "no rule knows this"
    return [
        Finding(
            rule=UNKNOWN,
            title="the cause is not known to any rule",
            # A run that failed never ends with "nothing has failed": a warning is none.
            status="failed" if context.failed and no_error else "not_evaluated",
            role=None,
            evidence=shown[0] if shown else None,
            more=shown[1 : _MOST_EVIDENCE + 1],
            cause=f"{what}; here is the earliest anomaly of each rank, earliest first",
            fix="read upwards from the first of them; a rule for it can be added with --rules (docs/doctor.md)",
            confidence=0.0,
        )
    ]


def _is_over(scan: LogScan, hit: Hit) -> bool:
    is_ready = any(tally.last_line > hit.line for _, tally in _tallies(scan, -1, "ready"))
    return is_ready or after_end(scan, PatternCount(1, hit.line, first={"": hit}), [])
