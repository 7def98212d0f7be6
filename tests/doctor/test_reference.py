"""docs/doctor.md is what the rules say."""

from __future__ import annotations

from pathlib import Path

from overspan.doctor.reference import render, reports_in
from overspan.doctor.rules import load_rules
from overspan.preflight import HOST_KEY, SSH
from overspan.preflight.book import CHECKS, GROUP_CHECKS


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "doctor.md"
    assert page.read_text() == render(load_rules(), reports_in(Path(__file__).parent)), "run `make doctor-docs`"


def test_what_is_said_to_be_checked_before_a_launch_is_checked() -> None:
    known = {rule.rule for rule in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS)} | {"plan", "submission"}
    named = {name for rule in load_rules() for name in rule.checked_by}
    assert named <= known
    assert known - named == {"preflight.subnet"}, "a check that prevents no class of failure"
