"""A live view of a run: its processes, their GPUs and the endpoint's traffic, asked anew at each interval.

What asks keeps its connections open. A question that takes longer than an interval goes on while the view does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from types import TracebackType
from typing import Final, Generic, TypeVar

from overspan.endpoint.client import http_client
from overspan.endpoint.metrics import Metrics, read_metrics
from overspan.engines import registry
from overspan.inventory import probes
from overspan.inventory.probes import GPU_LOAD, GpuLoad
from overspan.launchers.base import Member
from overspan.launchers.registry import launcher_of
from overspan.runs.status import ProcessStatus, RunStatus, joined, overview, placed
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.schema.event import FINAL_STATES, State
from overspan.schema.plan import Plan
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder
from overspan.transport.base import Transport

PATIENCE_S: Final = 2.0
"""How long the view waits for answers at least: a first connection over ssh takes about one second."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Reading:
    """The engine's own metrics at one moment of this machine's monotonic clock, seconds."""

    at_s: float
    sample: Metrics


@dataclass(frozen=True)
class Traffic:
    """What the endpoint does. A value that it does not tell is none; `kv_cache_usage` is a share of 1."""

    tokens_per_s: float | None
    running: float | None
    waiting: float | None
    kv_cache_usage: float | None


@dataclass(frozen=True)
class Row:
    """One rank, or one process where its ranks have no GPUs. `memory_bytes` and `uptime_s` are its process's."""

    process: str
    ranks: str
    host: str
    health: str
    memory_bytes: int | None
    uptime_s: float | None
    gpu: int | None = None
    load: GpuLoad | None = None


@dataclass(frozen=True)
class Sight:
    """A run at one moment. `problems`: what could not be asked, and why."""

    status: RunStatus
    rows: list[Row]
    traffic: Traffic | None
    problems: dict[str, str]
    dashboard: str | None


def traffic_of(before: Reading | None, now: Reading) -> Traffic:
    """The endpoint's gauges, and its rate since the reading before: none at first and after an engine's restart."""
    rate = None
    if before is not None and now.at_s > before.at_s:
        made = now.sample.get("generation_tokens", -1.0) - before.sample.get("generation_tokens", 0.0)
        rate = made / (now.at_s - before.at_s) if made >= 0 else None
    gauges = (now.sample.get(name) for name in ("running", "waiting", "kv_cache_usage"))
    return Traffic(rate, *gauges)


def rows_of(plan: Plan, processes: list[ProcessStatus], loads: Mapping[str, list[GpuLoad]]) -> list[Row]:
    """A row for each rank that has a GPU of its own, else one for each process."""
    places = {placement.process: placement for placement in plan.placements}
    rows = []
    for one in processes:
        facts = (one.host, one.health, one.memory_bytes, one.uptime_s)
        place = places.get(one.process)
        ranks, gpus = ([], []) if place is None else (place.ranks, place.gpus)
        if not gpus:
            rows.append(Row(one.process, ",".join(map(str, ranks)), *facts))
        by_index = {load.index: load for load in loads.get(one.host, [])}
        for rank, gpu in zip_longest(ranks, gpus) if gpus else ():
            rows.append(Row(one.process, "" if rank is None else str(rank), *facts, gpu, by_index.get(gpu)))
    return rows


class _Question(Generic[Answer]):
    """Something that is asked again and again, in a thread of a pool, once at a time."""

    def __init__(self, pool: ThreadPoolExecutor, ask: Callable[[], Answer]) -> None:
        self._pool, self._ask = pool, ask
        self._asking: Future[Answer] | None = None
        self._since_s = 0.0

    def begin(self) -> None:
        """Ask, unless the last time has not been answered yet."""
        if self._asking is None:
            self._asking, self._since_s = self._pool.submit(self._ask), time.monotonic()

    def end(self, deadline_s: float) -> Answer:
        """The answer.

        Raises:
            OverspanError: there is none, or none yet.
        """
        if self._asking is None:
            raise ValueError("nothing was asked")
        try:
            answer = self._asking.result(max(0.0, deadline_s - time.monotonic()))
        except TimeoutError:
            raise HostUnreachable(f"no answer for {time.monotonic() - self._since_s:.0f} s") from None
        except OverspanError:
            self._asking = None
            raise
        self._asking = None
        return answer


class Live:
    """Looks at one run again and again.

    Raises:
        RunDamaged: its folder cannot be read.
    """

    def __init__(self, run: RunFolder, transports: Mapping[str, Transport] | None = None) -> None:
        self._run, self._plan = run, run.plan()
        self._engine = registry.find(self._plan.engine.name)
        whole = launcher_of(self._plan, run, transports)
        self._transports = whole.transports
        self._http = http_client(None, PATIENCE_S)
        self._before: Reading | None = None
        self._pool = ThreadPoolExecutor(2 * len(self._transports) + 1, thread_name_prefix="live")
        self._metrics = _Question(self._pool, self._ask_metrics)
        # One for each host, so that none waits for another.
        self._launchers = {host: launcher_of(self._plan, run, {host: way}) for host, way in self._ways()}
        self._members = {host: self._asking_members(host) for host in self._launchers}
        with_gpus = {host.name for host in whole.hosts if host.gpus}
        self._loads = {host: self._asking_load(way) for host, way in self._ways() if host in with_gpus}

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of every connection."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for launcher in self._launchers.values():
            launcher.close()
        self._http.close()

    def sights(self, interval_s: float) -> Iterator[Sight]:
        """The run at each interval, until it is over."""
        while True:
            began_s = time.monotonic()
            sight = self.look(max(interval_s, PATIENCE_S))
            yield sight
            if sight.status.state in FINAL_STATES:
                return
            time.sleep(max(0.0, began_s + interval_s - time.monotonic()))

    def look(self, patience_s: float = PATIENCE_S) -> Sight:
        """The run now. What has not answered within `patience_s` is told as such."""
        if not self._plan.is_joiner:
            self._metrics.begin()
        for members in self._members.values():
            members.begin()
        for load in self._loads.values():
            load.begin()
        deadline_s = time.monotonic() + patience_s
        status = overview(self._run, self._plan, lambda state: self._processes(state, deadline_s))
        if status.state in FINAL_STATES:
            return Sight(status, [], None, {}, None)
        loads, silent = self._gpus(deadline_s)
        problems = {f"GPUs of {host}": why for host, why in silent.items() if host not in status.unreachable}
        traffic = None
        try:
            if not self._plan.is_joiner:  # the endpoint is the head's
                now = self._metrics.end(deadline_s)
                traffic, self._before = traffic_of(self._before, now), now
        except OverspanError as error:
            problems["endpoint"] = error.in_one_line
        rows = rows_of(self._plan, status.processes, loads)
        return Sight(status, rows, traffic, problems, self._engine.dashboard(self._plan))

    def _processes(self, state: State, deadline_s: float) -> tuple[list[ProcessStatus], dict[str, str]]:
        found: list[Member] = []
        unreachable = {}
        for host, asked in self._members.items():
            try:
                found += asked.end(deadline_s)
            except OverspanError as error:
                unreachable[host] = error.in_one_line.removeprefix(f"{host}: ")
        seen = placed(self._plan, found, unreachable, state)
        return [*seen, *joined(self._run, self._plan)], unreachable

    def _gpus(self, deadline_s: float) -> tuple[dict[str, list[GpuLoad]], dict[str, str]]:
        loads, silent = {}, {}
        for host, asked in self._loads.items():
            try:
                loads[host] = asked.end(deadline_s)
            except OverspanError as error:
                silent[host] = error.in_one_line
        return loads, silent

    def _ways(self) -> list[tuple[str, Transport]]:
        return list(self._transports.items())

    def _asking_members(self, host: str) -> _Question[list[Member]]:
        def ask() -> list[Member]:
            found, problems = self._launchers[host].look()
            for why in problems.values():
                raise HostUnreachable(why)
            return found

        return _Question(self._pool, ask)

    def _asking_load(self, way: Transport) -> _Question[list[GpuLoad]]:
        def ask() -> list[GpuLoad]:
            seen, _ = probes.look(way, GPU_LOAD)
            if seen.value is None:
                raise OverspanError(seen.why)
            return seen.value

        return _Question(self._pool, ask)

    def _ask_metrics(self) -> Reading:
        key = run_secrets.read(self._run).get(run_secrets.API_KEY)
        found = read_metrics(self._http, self._plan.endpoint.base_url, self._engine.metrics, key)
        return Reading(time.monotonic(), found)
