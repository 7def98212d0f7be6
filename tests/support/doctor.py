"""Short ways to ask the doctor about a text."""

from __future__ import annotations

from pathlib import Path

from overspan.doctor import diagnose
from overspan.doctor.context import RunContext
from overspan.doctor.sources import LogSource
from overspan.schema.finding import Finding


def ask(text: str | bytes, *folders: Path, context: RunContext | None = None) -> list[Finding]:
    data = text.encode() if isinstance(text, str) else text
    return diagnose([LogSource("x.log", data=data)], context, rule_folders=folders)


def ask_all(logs: dict[str, str], context: RunContext | None = None) -> list[Finding]:
    sources = [LogSource(f"logs/{name}.log", data=text.encode(), process=name) for name, text in logs.items()]
    return diagnose(sources, context)


def failed(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings if finding.status == "failed"]


def failed_rules(text: str | bytes, *folders: Path) -> list[str]:
    return failed(ask(text, *folders))


def root_of(text: str | bytes, *folders: Path) -> str | None:
    found = failed_rules(text, *folders)
    return found[0] if found else None
