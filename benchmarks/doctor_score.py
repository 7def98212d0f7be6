"""The doctor's scorecard: recall by class, precision, false alarms on innocent logs, and cross-validation.

Cross-validation: of a class with several reports, only the patterns that one report shows are kept, and the others are
judged with those. It tells how far the shape learnt from one report carries; it is optimistic, since whoever wrote the
patterns had read all reports.

    python benchmarks/doctor_score.py [CORPUS]
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from overspan.checks.doctor.book import compile_book
from overspan.checks.doctor.fill import RunContext
from overspan.checks.doctor.judge import judge
from overspan.checks.doctor.rules import Rule, load_rules
from overspan.checks.doctor.scan import scan
from overspan.checks.doctor.sources import LogSource
from overspan.schema.finding import Finding

CORPUS = Path(__file__).parent.parent / "tests" / "doctor" / "corpus"
WANTED_RECALL = 0.95


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _failed(rules: tuple[Rule, ...], logs: list[str]) -> list[list[Finding]]:
    book = compile_book(rules)
    found = []
    for log in logs:
        findings = judge(rules, [scan(LogSource("report", data=log.encode()), book)], RunContext())
        found.append([finding for finding in findings if finding.status == "failed"])
    return found


def _learnt(rule: Rule, log: str) -> Rule | None:
    """The rule with only those patterns that this one report shows."""
    kept: dict[str, list[str]] = {}
    for kind in ("match", "hints"):
        patterns = getattr(rule, kind)
        kept[kind] = [one for one in patterns if _failed((_only(rule, one),), [log])[0]]
    if not kept["match"] and not kept["hints"]:
        return None
    return rule.model_copy(update={"match": kept["match"] or kept["hints"], "hints": [], "explains": []})


def _only(rule: Rule, pattern: str) -> Rule:
    return rule.model_copy(update={"match": [pattern], "hints": [], "explains": []})


def _cross_validate(rules: tuple[Rule, ...], by_class: dict[str, list[str]]) -> tuple[int, int]:
    known = {rule.id: rule for rule in rules}
    right = total = 0
    for name, logs in by_class.items():
        for index, log in enumerate(logs if len(logs) > 1 and name in known else []):
            others = [other for place, other in enumerate(logs) if place != index]
            rule = _learnt(known[name], log)
            total += len(others)
            right += sum(bool(found) for found in _failed((rule,), others)) if rule else 0
    return right, total


def main() -> None:
    """Print the scorecard; fail when a target is missed."""
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else CORPUS
    rules = load_rules()
    reports = _read(corpus / "failures.jsonl")
    innocents = _read(corpus / "innocent.jsonl") if (corpus / "innocent.jsonl").exists() else []
    roots = [found[0].rule if found else None for found in _failed(rules, [one["log"] for one in reports])]
    alarms = [found[0].rule for found in _failed(rules, [one["log"] for one in innocents]) if found]
    by_class: dict[str, list[str]] = defaultdict(list)
    right: dict[str, int] = defaultdict(int)
    for one, root in zip(reports, roots, strict=True):
        by_class[one["id"]].append(one["log"])
        right[one["id"]] += root == one["id"]
    for name, logs in by_class.items():
        print(f"{right[name]:3} of {len(logs):3}  {name}")
    named = sum(root is not None for root in roots) + len(alarms)
    correct = sum(right.values())
    carried, tried = _cross_validate(rules, by_class)
    recall = correct / len(reports)
    print(f"rules            {len(rules)}")
    print(f"recall           {correct} of {len(reports)} ({recall:.1%}), {len(by_class)} classes")
    print(f"precision        {correct} of {named} ({correct / named:.1%})")
    print(f"false alarms     {len(alarms)} of {len(innocents)} innocent logs")
    print(f"cross-validation {carried} of {tried} ({carried / max(1, tried):.1%})")
    if recall < WANTED_RECALL or alarms:
        sys.exit("a target is missed")


if __name__ == "__main__":
    main()
