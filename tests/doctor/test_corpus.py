"""Real reports: each names its class as the root; logs that only look alarming name nothing.

`corpus/` was there when the rules were written. `held_out/` was looked for afterwards (public issues, with their
address), judged before a rule was touched (docs/log.md has those scores), and is kept since.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overspan.doctor.rules import load_rules
from support.doctor import failed_rules, root_of

FOLDERS = ("corpus", "held_out")


def _read(name: str) -> list[tuple[str, dict[str, str]]]:
    files = [(folder, Path(__file__).parent / folder / name) for folder in FOLDERS]
    return [
        (f"{folder}-{number}", json.loads(line))
        for folder, file in files
        for number, line in enumerate(file.read_text().splitlines())
    ]


FAILURES = _read("failures.jsonl")
REPORTS = [pytest.param(one["id"], one["log"], id=f"{name}-{one['id']}") for name, one in FAILURES]
INNOCENT = [pytest.param(one["log"], id=name) for name, one in _read("innocent.jsonl")]


@pytest.mark.parametrize(("rule", "log"), REPORTS)
def test_a_report_names_its_class(rule: str, log: str) -> None:
    assert root_of(log) == rule


@pytest.mark.parametrize("log", INNOCENT)
def test_an_innocent_log_names_nothing(log: str) -> None:
    assert failed_rules(log) == []


def test_every_report_found_later_says_where_it_stands_and_has_a_rule() -> None:
    known = {rule.id for rule in load_rules()}
    later = [one for name, one in FAILURES if name.startswith("held_out")]
    assert all(one["source"].startswith("https://") for one in later)
    assert {one["id"] for one in later} <= known
