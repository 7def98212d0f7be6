"""Doctor: from logs to the cause and the fix.

    diagnose(logs, context) -> list[Finding]

Pure apart from reading the logs. Rules are read and compiled at the first call and kept; importing costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overspan.doctor.context import RunContext
    from overspan.doctor.sources import LogSource
    from overspan.schema.finding import Finding


def diagnose(
    logs: Sequence[LogSource], context: RunContext | None = None, *, rule_folders: tuple[Path, ...] = ()
) -> list[Finding]:
    """Judge every rule on the logs of one run.

    Args:
        logs: one source a process, or any log files.
        context: what is known of the run beside its logs.
        rule_folders: folders of the operator's own rules; a rule of theirs replaces a built-in one of the same id.

    Returns:
        Failed findings first, the root cause at the top; then what could not be evaluated; then what passed.

    Raises:
        RecipeError: a rule folder holds a wrong rule.
    """
    from overspan.doctor.book import load_book
    from overspan.doctor.context import RunContext
    from overspan.doctor.judge import judge
    from overspan.doctor.scan import scan

    book = load_book(rule_folders)
    scans = [scan(log, book) for log in logs]
    return judge(book.rules, scans, context or RunContext())
