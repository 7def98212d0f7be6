"""The doctor's scorecard: recall by class, precision, false alarms on innocent logs, and cross-validation.

Two sets: `corpus`, which was there when the rules were written, and `held_out`, looked for afterwards. A third batch,
`strangers`, is judged by the words that a right answer holds, not by a class; detect's listings come with it.

Cross-validation: of a class with several reports, only the patterns that one report shows are kept, and the others are
judged with those. It tells how far the shape learnt from one report carries; it is optimistic, since whoever wrote the
patterns had read all reports. docs/log.md has the honest figure: unseen reports judged before a rule was touched.

    python benchmarks/doctor_score.py [--hostile] [FOLDER ...]

`--hostile`: every report under every stamp, wrap and mix of tests/support/mutations.py too (half a minute each).
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from overspan.doctor.book import make_book
from overspan.doctor.context import RunContext
from overspan.doctor.judge import judge
from overspan.doctor.rules import LogRule, load_rules
from overspan.doctor.scan import scan
from overspan.doctor.sources import LogSource
from overspan.schema.finding import Finding
from support.strangers import faults, mark, read

DATA = Path(__file__).parent.parent / "tests" / "doctor"
FOLDERS = (DATA / "corpus", DATA / "held_out")
WANTED_RECALL = 0.95


@dataclass(frozen=True)
class Score:
    """What one set of logs showed."""

    reports: int
    named: int
    right: int
    innocents: int
    alarms: int

    @property
    def recall(self) -> float:
        """Reports whose root is their class, of all reports."""
        return self.right / self.reports


def _read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _failed(rules: tuple[LogRule, ...], logs: list[str]) -> list[list[Finding]]:
    book = make_book(rules)
    found = []
    for log in logs:
        findings = judge(rules, [scan(LogSource("report", data=log.encode()), book)], RunContext())
        found.append([finding for finding in findings if finding.status == "failed"])
    return found


def _learnt(rule: LogRule, log: str) -> LogRule | None:
    """The rule with only those patterns that this one report shows."""
    kept: dict[str, list[str]] = {}
    for kind in ("match", "hints"):
        patterns = getattr(rule, kind)
        kept[kind] = [one for one in patterns if _failed((_only(rule, one),), [log])[0]]
    if not kept["match"] and not kept["hints"]:
        return None
    return rule.with_(match=kept["match"] or kept["hints"], hints=[], explains=[])


def _only(rule: LogRule, pattern: str) -> LogRule:
    return rule.with_(match=[pattern], hints=[], explains=[])


def _cross_validate(rules: tuple[LogRule, ...], by_class: dict[str, list[str]]) -> tuple[int, int]:
    known = {rule.id: rule for rule in rules}
    right = total = 0
    for name, logs in by_class.items():
        for index, log in enumerate(logs if len(logs) > 1 and name in known else []):
            others = [other for place, other in enumerate(logs) if place != index]
            rule = _learnt(known[name], log)
            total += len(others)
            right += sum(bool(found) for found in _failed((rule,), others)) if rule else 0
    return right, total


def _score(rules: tuple[LogRule, ...], folder: Path, by_class: dict[str, list[str]]) -> Score:
    """Judge one folder and print what each class shows."""
    reports, innocents = _read(folder / "failures.jsonl"), _read(folder / "innocent.jsonl")
    roots = [found[0].rule if found else None for found in _failed(rules, [one["log"] for one in reports])]
    alarms = sum(bool(found) for found in _failed(rules, [one["log"] for one in innocents]))
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for one, root in zip(reports, roots, strict=True):
        by_class[one["id"]].append(one["log"])
        right[one["id"]] += root == one["id"]
        total[one["id"]] += 1
    print(f"{folder.name}: recall by class")
    for name in sorted(total):
        print(f"{right[name]:3} of {total[name]:3}  {name}")
    named = sum(root is not None for root in roots) + alarms
    return Score(len(reports), named, sum(right.values()), len(innocents), alarms)


def _strangers(rules: tuple[LogRule, ...]) -> None:
    """Print the marks of the strangers' reports and listings, and what is not right."""
    reports, innocents = read("doctor/strangers/failures.jsonl"), read("doctor/strangers/innocent.jsonl")
    found = _failed(rules, [one["log"] for one in reports])
    marks = {one["name"]: mark(one, each) for one, each in zip(reports, found, strict=True)}
    accused = _failed(rules, [one["log"] for one in innocents])
    with TemporaryDirectory() as folder:
        listings = {one["name"]: faults(one, Path(folder) / one["name"]) for one in read("inventory/strangers.jsonl")}
    print("\nstrangers: what is not right")
    for one, each in zip(reports, found, strict=True):
        if marks[one["name"]] != "right":
            print(
                f"{marks[one['name']]:6}  {one['name']}: {each[0].rule if each else 'nothing'}; it is: {one['cause']}"
            )
    for name, bad in listings.items():
        if bad:
            print(f"wrong   detect, {name}: {'; '.join(bad)[:160]}")
    told = ", ".join(f"{list(marks.values()).count(kind)} {kind}" for kind in ("right", "partly", "wrong", "missed"))
    print(f"strangers\n  failures       {len(marks)}: {told}")
    print(f"  false alarms   {sum(map(bool, accused))} of {len(innocents)} innocent logs")
    print(f"  detect         {sum(not bad for bad in listings.values())} of {len(listings)} listings right")


def _hostile(rules: tuple[LogRule, ...], by_class: dict[str, list[str]]) -> None:
    """Print, for each way to spoil a log, how many reports keep their class."""
    from support.mutations import MUTATIONS

    logs = [(name, log) for name, logs in by_class.items() for log in logs]
    for way, mutate in MUTATIONS.items():
        found = _failed(rules, [mutate(log) for _, log in logs])
        right = sum(bool(one) and one[0].rule == name for one, (name, _) in zip(found, logs, strict=True))
        print(f"{right:4} of {len(logs)}  {way}")


def main() -> None:
    """Print the scorecard; fail when a target is missed."""
    hostile = "--hostile" in sys.argv
    folders = [Path(name) for name in sys.argv[1:] if name != "--hostile"] or FOLDERS
    rules = load_rules()
    by_class: dict[str, list[str]] = defaultdict(list)
    scores = {folder.name: _score(rules, folder, by_class) for folder in folders}
    print(f"\nrules            {len(rules)}")
    for name, score in scores.items():
        print(f"{name}")
        print(f"  recall         {score.right} of {score.reports} ({score.recall:.1%})")
        print(f"  precision      {score.right} of {score.named} ({score.right / score.named:.1%})")
        print(f"  false alarms   {score.alarms} of {score.innocents} innocent logs")
    if folders == FOLDERS:
        _strangers(rules)
    carried, tried = _cross_validate(rules, by_class)
    print(f"cross-validation {carried} of {tried} ({carried / max(1, tried):.1%}), {len(by_class)} classes")
    if hostile:
        _hostile(rules, by_class)
    if any(score.recall < WANTED_RECALL or score.alarms for score in scores.values()):
        sys.exit("a target is missed")


if __name__ == "__main__":
    main()
