"""What is known of a run beside its logs, and a rule's text filled with it and with what the matched line names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from overspan.doctor.sources import LogSource

if TYPE_CHECKING:
    from overspan.schema.event import Event
    from overspan.schema.plan import Plan
    from overspan.schema.process import ProcessSpec

_PLACE = re.compile(r"\{([a-z_]+)\}")
# A log is not ours: what it names goes into a command that a person pastes, so only plain words may.
_SAFE = re.compile(r"(?!-)[\w.:/@%+,=-]{1,200}", re.ASCII)


@dataclass(frozen=True)
class RunContext:
    """What is known beside the logs.

    Args:
        facts: values for `{name}` in causes and fixes.
        engine_version: of vLLM, e.g. `0.32.0`.
        failed: the run is known to have failed; then an unknown failure is a failure too.
        deaths: process -> seconds since some moment; who died first stands first.
        commands: process -> its command line, which stands before the first line of its log.
    """

    facts: Mapping[str, str] = field(default_factory=dict)
    host_facts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    engine_version: str | None = None
    failed: bool = False
    deaths: Mapping[str, float] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)


def facts_of(plan: Plan) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """What a plan knows for the run, and for each of its hosts."""
    hosts = plan.inventory.hosts
    addresses = {host.name: host.fabric.address if host.fabric else host.name for host in hosts}
    facts = {
        "hosts": ",".join(host.name for host in hosts),
        "head": addresses[hosts[0].name],
        "port": str(plan.endpoint.port),
        "model": plan.recipe.model,
        "image": plan.engine.image or "",
    }
    by_host = {
        host.name: {
            "host": host.name,
            "address": addresses[host.name],
            "interface": host.fabric.interface if host.fabric else "",
            "hcas": ",".join(host.fabric.hcas) if host.fabric else "",
        }
        for host in hosts
    }
    return {key: value for key, value in facts.items() if value}, by_host


def fill(text: str, *known: Mapping[str, str]) -> str:
    """The text with each `{name}` replaced by the first value known for it, else by `<name>`."""

    def value(place: re.Match[str]) -> str:
        name = place.group(1)
        for source in known:
            if name in source and _SAFE.fullmatch(source[name]):
                return source[name]
        return f"<{name}>"

    return _PLACE.sub(value, text)


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
