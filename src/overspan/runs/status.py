"""How a run is now, from any shell: its events tell its state, the processes themselves tell the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable

from pydantic import Field

from overspan.launchers.base import Member
from overspan.launchers.registry import launcher_of
from overspan.runs.join.server import SEATS
from overspan.schema.base import Frozen
from overspan.schema.errors import RunDamaged
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
    processes: list[ProcessStatus]
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
    return overview(run, plan, lambda state: _processes(run, plan, state))


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
        processes=processes,
        unreachable=unreachable,
    )


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
