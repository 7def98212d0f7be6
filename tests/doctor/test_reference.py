"""docs/doctor.md is what the rules say."""

from __future__ import annotations

from pathlib import Path

from overspan.checks.doctor.reference import render, reports_in
from overspan.checks.doctor.rules import load_rules


def test_the_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "doctor.md"
    assert page.read_text() == render(load_rules(), reports_in(Path(__file__).parent)), "run `make doctor-docs`"
