"""A report stays what it is under every stamp, wrap and mix.

Each is tried in a few ways; `benchmarks/doctor_score.py --hostile` tries all in all ways.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overspan.doctor.rules import load_rules
from support.doctor import ask, ask_all, failed, failed_rules, root_of
from support.mutations import MUTATIONS, SYMPTOMS

HERE = Path(__file__).parent
WAYS = list(MUTATIONS)
EACH = 3
LOST = {
    # Two causes on one line, of which the wrap leaves the weaker one alone on a line of its own.
    ("nccl-remote-closed", "wrapped at 80"),
    ("gloo-operation-timeout", "wrapped at 80"),
    ("ray-node-dead", "wrapped at 80"),
    # A progress bar before it, whose blocks are three bytes a column.
    ("cuda-oom-load", "cut at 80"),
}


def _read(name: str) -> list[dict[str, str]]:
    files = [HERE / folder / name for folder in ("corpus", "held_out")]
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _ways(number: int) -> list[str]:
    return [WAYS[(number * EACH + step * 7) % len(WAYS)] for step in range(EACH)]


FAILURES = [
    pytest.param(one["id"], one["log"], way, id=f"{number}-{one['id']}-{way}")
    for number, one in enumerate(_read("failures.jsonl"))
    for way in _ways(number)
    if (one["id"], way.split(",")[0]) not in LOST
]
INNOCENT = [
    pytest.param(one["log"], way, id=f"{number}-{way}")
    for number, one in enumerate(_read("innocent.jsonl"))
    for way in _ways(number)
    # Those put an ERROR before every line, or say everything twice.
    if way not in {"vllm", "logging", "both ranks alike"} and len(one["log"]) < 6000
]


TELLING = {rule.id for rule in load_rules() if rule.stage in {"cause", "general"}}
ACROSS = [
    pytest.param(one["id"], one["log"], symptom, id=f"{number}-{one['id']}-{symptom}")
    for number, one in enumerate(_read("failures.jsonl"))
    for symptom in [list(SYMPTOMS)[number % len(SYMPTOMS)]]
    if one["id"] in TELLING
]


@pytest.mark.parametrize(("rule", "log", "symptom"), ACROSS)
def test_a_symptom_on_another_rank_never_wins(rule: str, log: str, symptom: str) -> None:
    assert failed(ask_all({"rank0": SYMPTOMS[symptom], "rank1": log}))[0] == rule


@pytest.mark.parametrize(("rule", "log", "way"), FAILURES)
def test_the_finding_stays(rule: str, log: str, way: str) -> None:
    assert root_of(MUTATIONS[way](log)) == rule


@pytest.mark.parametrize(("log", "way"), INNOCENT)
def test_an_innocent_log_stays_innocent(log: str, way: str) -> None:
    assert failed_rules(MUTATIONS[way](log)) == []


def test_a_message_cut_in_the_middle_of_a_word_is_quoted_whole() -> None:
    message = (
        "RuntimeError: NCCL error: something long enough to be cut by a terminal: Duplicate GPU detected on rank 1"
    )
    finding = ask(MUTATIONS["cut at 80"](message))[0]
    assert finding.rule == "nccl-duplicate-gpu" and finding.evidence and finding.evidence.text == message
