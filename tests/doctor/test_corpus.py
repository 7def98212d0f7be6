"""Real reports: each names its class as the root; logs that only look alarming name nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.doctor import failed_rules, root_of

CORPUS = Path(__file__).parent / "corpus"


def _read(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (CORPUS / name).read_text().splitlines()]


REPORTS = [pytest.param(one["id"], one["log"], id=f"{n}-{one['id']}") for n, one in enumerate(_read("failures.jsonl"))]
INNOCENT = [pytest.param(one["log"], id=str(n)) for n, one in enumerate(_read("innocent.jsonl"))]


@pytest.mark.parametrize(("rule", "log"), REPORTS)
def test_a_report_names_its_class(rule: str, log: str) -> None:
    assert root_of(log) == rule


@pytest.mark.parametrize("log", INNOCENT)
def test_an_innocent_log_names_nothing(log: str) -> None:
    assert failed_rules(log) == []
