"""How a run is now, from any shell: its events tell its state, the processes themselves tell the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from concurrent.futures import ThreadPoolExecutor

from pydantic import Field

from overspan.engines import registry
from overspan.inventory import probes
from overspan.inventory.gpus import GPU_LOAD
from overspan.launchers.base import Member
from overspan.launchers.registry import launcher_of
from overspan.runs import progress
from overspan.runs.join.server import SEATS
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError, RunDamaged
from overspan.schema.event import FINAL_STATES, SERVING_STATES, State
from overspan.schema.plan import Placement, Plan
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder


class ProcessStatus(Frozen):
    """One process of a run."""

    process: str
    host: str
    health: str
    pid: int | None = None
    memory_bytes: int | None = None
    uptime_s: float | None = None


class GpuMemory(Frozen):
    """The memory of one GPU, whoever holds it; null is what nobody tells."""

    host: str
    index: int
    used_bytes: int | None
    total_bytes: int | None


class RunStatus(Frozen):
    """One run. `ready` is whether it answers requests as far as its supervisor knows."""

    run: str
    name: str
    state: State
    ready: bool
    since_s: float
    message: str
    endpoint: str | None
    model: str | None
    key_file: str | None = Field(None, description="where the API key is, if the endpoint asks for one")
    progress: str | None = Field(None, description="what the engine says of its start, while it starts")
    progress_since_s: float | None = Field(None, description="how long this phase of the start has lasted")
    processes: list[ProcessStatus]
    gpus: list[GpuMemory] = Field(default_factory=list, description="those of the run, unless it is over")
    gpus_unknown: dict[str, str] = Field(default_factory=dict, description="hosts whose GPUs do not tell, and why")
    unreachable: dict[str, str] = Field(default_factory=dict, description="hosts that do not answer, and why")


_MISSING: dict[State, str] = {
    "planned": "not started",
    "staged": "not started",
    "launching": "starting",
    "restarting": "starting",
}
"""What a host without the process means, by the state of the run; in every other state it is dead."""

Look = Callable[[State], tuple[list[ProcessStatus], dict[str, str]]]
"""Looks at the processes of a run in that state now; tells the hosts that do not answer, each with the reason."""


def status(run: RunFolder) -> RunStatus:
    """The state of a run.

    Raises:
        RunDamaged: its folder cannot be read.
    """
    plan = run.plan()
    now = overview(run, plan, lambda state: _processes(run, plan, state))
    if now.state in FINAL_STATES:
        return now
    gpus, unknown = _gpu_memory(plan, run, now.unreachable)
    return now.with_(gpus=gpus, gpus_unknown=unknown)


def overview(run: RunFolder, plan: Plan, look: Look) -> RunStatus:
    """The state of a run whose processes `look` finds; a run that is over is not looked at."""
    last = run.standing()
    state, message = last.state or "planned", last.message
    over = state in FINAL_STATES
    if over and not run.ended:
        message += "; `overspan stop` ends what is left"
    try:
        processes, unreachable = ([], {}) if over else look(state)
    except RunDamaged as error:  # what the supervisor wrote down of them; the run goes on
        processes, unreachable = placed(plan, [], {each.host for each in plan.own}, state), {}
        message += f"; {error.what}"
    start = progress.standing(run, registry.find(plan.engine.name).phases) if state == "launching" else None
    return RunStatus(
        run=run.id,
        name=run.name,
        state=state,
        ready=state in SERVING_STATES,
        since_s=round(time.time() - last.at.timestamp(), 1),
        message=message,
        endpoint=None if over or plan.is_joiner else plan.endpoint.base_url,
        model=plan.endpoint.model,
        key_file=None if over else run_secrets.file_of(run),
        progress=start and start[0],
        progress_since_s=start and round(time.time() - start[1].timestamp(), 1),
        processes=processes,
        unreachable=unreachable,
    )


def _gpu_memory(plan: Plan, run: RunFolder, unreachable: Container[str]) -> tuple[list[GpuMemory], dict[str, str]]:
    """Of the GPUs that hold the run's ranks, asked at once on all hosts that answer; and which hosts do not tell."""
    mine = {(each.host, gpu) for each in plan.own for gpu in each.gpus}
    found, unknown = [], {}
    with launcher_of(plan, run) as launcher:
        hosts = [each for each in launcher.hosts if each.gpus and each.name not in unreachable]
        ways = {each.name: launcher.transports[each.name] for each in hosts if each.name in launcher.transports}
        with ThreadPoolExecutor(max(1, len(ways))) as pool:
            asked = {host: pool.submit(probes.look, way, GPU_LOAD) for host, way in ways.items()}
    for host in hosts:
        if host.name not in asked:
            unknown[host.name] = "the launcher chooses the machine"
            continue
        try:
            seen, _ = asked[host.name].result()
        except OverspanError as error:
            unknown[host.name] = error.in_one_line
            continue
        if seen.value is None:
            unknown[host.name] = seen.why
        totals = {gpu.index: gpu.memory_bytes for gpu in host.gpus}
        for each in seen.value or []:
            if (host.name, each.index) in mine:
                used, total = each.memory_used_bytes, totals.get(each.index)
                found.append(GpuMemory(host=host.name, index=each.index, used_bytes=used, total_bytes=total))
    return found, unknown


def _processes(run: RunFolder, plan: Plan, state: State) -> tuple[list[ProcessStatus], dict[str, str]]:
    with launcher_of(plan, run) as launcher:
        found, unreachable = launcher.look()
    return [*placed(plan, found, unreachable, state), *joined(run, plan)], unreachable


def joined(run: RunFolder, plan: Plan) -> list[ProcessStatus]:
    """What other hosts start by themselves beside this head: awaited, or as the connection to its host tells."""
    if plan.is_joiner:
        return []
    seats = run.note(SEATS)
    return [_absent(each, str(seats.get(each.host, "awaited"))) for each in plan.awaited]


def _absent(placement: Placement, health: str) -> ProcessStatus:
    return ProcessStatus(process=placement.process, host=placement.host, health=health)


def placed(plan: Plan, found: Iterable[Member], unreachable: Container[str], state: State) -> list[ProcessStatus]:
    """Every placement's process: as found, unknown where its host does not answer; where its host has none, dead, or
    not started in a run that has not come so far."""
    by_process = {member.process: member for member in found}
    missing = _MISSING.get(state, "dead")
    ranks = []
    for each in plan.own:
        member = by_process.pop(each.process, None)
        ranks.append(_present(member) if member else _absent(each, "unknown" if each.host in unreachable else missing))
    # What holds no rank, as a router.
    return [*map(_present, by_process.values()), *ranks]


def _present(member: Member) -> ProcessStatus:
    return ProcessStatus(
        process=member.process,
        host=member.host,
        health=member.health,
        pid=member.pid,
        memory_bytes=member.memory_bytes,
        uptime_s=round(time.time() - member.started_at, 1) if member.started_at else None,
    )
