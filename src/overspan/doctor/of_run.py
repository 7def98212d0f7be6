"""What the doctor says of a run: of one that failed, and of one that is looked at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from overspan.doctor import diagnose
from overspan.doctor.context import context_of, events_source, sources_of
from overspan.doctor.signs import GpuNow, MemoryNow, SignInputs, merged, signs
from overspan.inventory.gpus import GPU_LOAD
from overspan.inventory.machine import MEMINFO
from overspan.inventory.probes import look
from overspan.launchers.registry import launcher_of
from overspan.schema.errors import OverspanError, RunDamaged, RunFailed
from overspan.schema.event import FINAL_STATES, Event
from overspan.schema.finding import Finding
from overspan.schema.plan import Plan
from overspan.store.run_folder import RunFolder

T = TypeVar("T")

FOLLOWS = frozenset({"slurm-step-ended"})
"""What Slurm writes of every step that is left when one has ended by itself: no cause then."""


def examine(run: RunFolder, rules: tuple[Path, ...] = (), say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Every finding on a run, failed ones first: its logs, its documents and, while it lives, its hosts.

    Args:
        run: any run, damaged ones too.
        rules: folders of the operator's own rules.
        say: told of each document that cannot be read.
    """

    def whole(read: Callable[[], T]) -> T | None:
        # A damaged run is the one that needs a doctor.
        try:
            return read()
        except RunDamaged as error:
            say(f"warning: {error.what}")
            return None

    plan, events, processes = whole(run.plan), whole(run.events) or [], whole(run.processes) or []
    # iterdir, since glob takes a folder that may not be read for an empty one.
    logs = sorted(path for path in run.logs.iterdir() if ".log" in path.name) if run.logs.exists() else []
    sources = [*sources_of(logs, processes), events_source(run.path / "events.jsonl", events)]
    last = whole(run.standing)
    if last is not None and last.state == "failed" and not any(event.state == "failed" for event in events):
        # Nobody was left to write it down.
        sources.append(events_source(run.path, [last]))
    known = [*events, last] if last is not None else events
    findings = diagnose(sources, context_of(plan, known, processes), rule_folders=rules)
    if any(event.process and event.data.get("code") is not None for event in events):
        findings = [each for each in findings if each.rule not in FOLLOWS]
    gpus, memory = _hosts_now(plan, events) if plan else ([], [])
    documents = SignInputs(
        plan=plan, processes=processes, bench=whole(run.bench), verified=whole(run.findings) or [], gpus=gpus,
        memory=memory,
    )  # fmt: skip
    return merged(findings, signs(documents))


def _hosts_now(plan: Plan, events: list[Event]) -> tuple[list[GpuNow], list[MemoryNow]]:
    """GPUs and memory of a run that lives; a host that does not answer is left out (and is not evaluated)."""
    states = [event.state for event in events if event.state]
    launcher = launcher_of(plan)
    # Of machines that a launcher chose, none is asked.
    hosts = [host for host in launcher.hosts if host.gpus and host.name in launcher.transports]
    gpus: list[GpuNow] = []
    memory: list[MemoryNow] = []
    if not hosts or not states or states[-1] in FINAL_STATES:
        return gpus, memory
    for host in hosts:
        try:
            loads, _ = look(launcher.transports[host.name], GPU_LOAD)
            seen, _ = look(launcher.transports[host.name], MEMINFO)
        except OverspanError:
            continue
        finally:
            launcher.transports[host.name].close()
        for load in loads.value or []:
            busy = None if load.utilization is None else 100 * load.utilization
            gpus.append(GpuNow(host.name, load.index, busy, load.power_w))
        if seen.value is not None:
            memory.append(MemoryNow(host.name, seen.value.total_bytes, seen.value.cached_bytes))
    return gpus, memory


def root_of(run: RunFolder) -> Finding | None:
    """The earliest specific cause that the logs of all ranks tell, or None where none is known."""
    return next((finding for finding in examine(run) if finding.status == "failed"), None)


def failure(run: RunFolder) -> RunFailed:
    """What to raise for a run that failed: what died first with its last lines, the cause and its fix where known."""
    last = run.last_state()
    lines = [str(line) for line in last.data.get("lines", [])]
    what, next_command = f"run {run.id} failed: {last.message}", f"overspan logs {run.id}"
    root = root_of(run)
    if root is not None and root.evidence is not None:
        where = f"{root.evidence.file}, line {root.evidence.line}" if root.evidence.line else root.evidence.file
        what += f"\ncause ({root.rule}): {root.cause}\n  {where}"
        lines.append(root.evidence.text)
        next_command = f"{root.fix or 'look at the quoted line'}\n      all lines: {next_command}"
    return RunFailed(what, quote="\n  | ".join(dict.fromkeys(lines)) or None, next=next_command)
