"""docs/doctor.md is what the rules say."""

from __future__ import annotations

import runpy
from pathlib import Path

from overspan.doctor.rules import load_rules
from overspan.preflight import HOST_KEY, SSH
from overspan.preflight.book import CHECKS, GROUP_CHECKS


def test_the_page_is_current() -> None:
    top = Path(__file__).parents[2]
    made = runpy.run_path(str(top / "scripts" / "doctor_docs.py"))
    page = made["render"](load_rules(), made["reports_in"](Path(__file__).parent))
    assert (top / "docs" / "doctor.md").read_text() == page, "run `make doctor-docs`"


def test_what_is_said_to_be_checked_before_a_launch_is_checked() -> None:
    known = {rule.rule for rule in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS)} | {"plan", "submission"}
    named = {name for rule in load_rules() for name in rule.checked_by}
    assert named <= known
    assert known - named == {"preflight.subnet"}, "a check that prevents no class of failure"
