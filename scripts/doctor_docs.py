"""docs/doctor.md, from the rules: `python scripts/doctor_docs.py tests/doctor > docs/doctor.md`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from overspan.doctor.rules import LogRule, PossibleCause, load_rules


def reports_in(folder: Path) -> Counter[str]:
    """How many real reports of each class the tests have."""
    files = sorted(folder.glob("*/failures.jsonl"))
    reports = (json.loads(line) for file in files for line in file.read_text("utf-8").splitlines())
    return Counter(one["id"] for one in reports if "id" in one)


def render(rules: Sequence[LogRule], reports: Mapping[str, int]) -> str:
    """The reference page."""
    parts = [Path(__file__).with_name("doctor_head.md").read_text("utf-8")]
    category = ""
    for rule in rules:
        if rule.category != category:
            category = rule.category
            parts.append(f"\n## {category}\n")
        parts.append(_section(rule, reports.get(rule.id, 0)))
    return "\n".join(parts)


def _section(rule: LogRule, reports: int) -> str:
    lines = [
        f"### {rule.id}",
        f"{rule.title}. Stage: {rule.stage}; severity: {rule.severity}.",
        "",
        f"- Cause: {rule.cause}",
        *(f"  - It can be: {each.why}{_told(each)}." for each in rule.causes),
        f"- Fix: {rule.fix}",
    ]
    if rule.preflight:
        lines.append(f"- Before the launch: {rule.preflight}")
    if rule.checked_by:
        lines.append(f"- Overspan asks before a launch: {', '.join(map(_by_whom, rule.checked_by))}")
    lines.append(f"- Source: {rule.source}")
    cases = rule.cases
    lines.append(f"- Tested: {len(cases.match)} cases, {len(cases.near_miss)} near misses, {reports} real reports")
    return "\n".join(lines) + "\n"


def _told(each: PossibleCause) -> str:
    ways = [each.tell] if each.tell else []
    ways += ["the logs may show it"] if each.seen_by or each.differ else []
    return f" ({'; '.join(ways)})" if ways else ""


def _by_whom(name: str) -> str:
    named = {"plan": "`overspan plan` refuses it", "submission": "`sbatch --test-only` at submission"}
    return named.get(name, f"`{name}`")


if __name__ == "__main__":
    print(render(load_rules(), reports_in(Path(sys.argv[1]))), end="")
