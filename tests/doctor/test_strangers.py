"""Reports that were found and judged before any rule for them was written (docs/log.md has that first score).

Not each must be right: their number is what is kept, and it may only grow.
"""

from __future__ import annotations

from support.doctor import ask
from support.strangers import mark, read

REACHED = 35
ACCUSED = 2


def test_no_fewer_of_the_strangers_failures_are_named_than_before() -> None:
    reports = read("doctor/strangers/failures.jsonl")
    marks = {
        one["name"]: mark(one, [found for found in ask(one["log"]) if found.status == "failed"]) for one in reports
    }
    others = {name: kind for name, kind in marks.items() if kind != "right"}
    assert len(marks) - len(others) >= REACHED, others


def test_innocent_logs_of_strangers_are_not_accused_more_than_before() -> None:
    logs = read("doctor/strangers/innocent.jsonl")
    accused = {
        one["name"]: found for one in logs if (found := [f.rule for f in ask(one["log"]) if f.status == "failed"])
    }
    assert len(accused) <= ACCUSED, accused


def test_every_report_says_where_it_stands() -> None:
    reports = [*read("doctor/strangers/failures.jsonl"), *read("doctor/strangers/innocent.jsonl")]
    assert all(one["source"].startswith("https://") and one["date"] for one in reports)
    assert len({one["name"] for one in reports}) == len(reports)
