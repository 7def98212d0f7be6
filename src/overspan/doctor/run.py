"""A run's documents, as the doctor takes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from pathlib import Path

from overspan.doctor.fill import RunContext, facts_of
from overspan.doctor.sources import LogSource
from overspan.schema.event import Event
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec


def sources_of(logs: Sequence[Path], processes: Sequence[ProcessSpec]) -> list[LogSource]:
    """One source a log file; a process's own log carries its host and ranks."""
    known = {process.name: process for process in processes}
    sources = []
    for log in logs:
        process = known.get(log.name.removesuffix(".gz").removesuffix(".log"))
        sources.append(
            LogSource(
                str(log),
                path=log,
                process=process.name if process else log.stem,
                host=process.host if process else None,
                ranks=tuple(process.ranks) if process else (),
            )
        )
    return sources


def events_source(file: Path, events: Sequence[Event]) -> LogSource:
    """What Overspan itself wrote of the run, one line an event, so that line numbers are those of events.jsonl."""
    lines = [f"{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ} {' '.join(event.message.split())}" for event in events]
    return LogSource(str(file), data="\n".join(lines).encode(), process="overspan")


def context_of(plan: Plan | None, events: Sequence[Event], processes: Sequence[ProcessSpec] = ()) -> RunContext:
    """What a plan and the events tell beside the logs."""
    facts, host_facts = facts_of(plan) if plan else ({}, {})
    deaths: dict[str, float] = {}
    for event in events:
        if event.process and event.process not in deaths and "code" in event.data:
            deaths[event.process] = event.at.timestamp()
    return RunContext(
        facts=facts,
        host_facts=host_facts,
        engine_version=plan.engine.version if plan else None,
        failed=any(event.state == "failed" for event in events),
        deaths=deaths,
        commands={process.name: " ".join(process.argv) for process in processes},
    )
