"""A live view of a run: its processes, their GPUs and the endpoint's traffic, asked anew at each interval.

What asks keeps its connections open. A question that takes longer than an interval goes on while the view does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from types import TracebackType
from typing import Final, Generic, TypeVar

from overspan.endpoint.client import http_client
from overspan.endpoint.metrics import Metrics, read_metrics
from overspan.engines import registry
from overspan.inventory import probes
from overspan.inventory.gpus import GPU_LOAD, GpuLoad
from overspan.launchers.base import Launcher, Member
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

T = TypeVar("T")


@dataclass(frozen=True)
class MetricsReading:
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
class RankRow:
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
    rows: list[RankRow]
    traffic: Traffic | None
    problems: dict[str, str]
    dashboard: str | None


def traffic_of(before: MetricsReading | None, now: MetricsReading) -> Traffic:
    """The endpoint's gauges, and its rate since the reading before: none at first and after an engine's restart."""
    rate = None
    if before is not None and now.at_s > before.at_s:
        made = now.sample.get("generation_tokens", -1.0) - before.sample.get("generation_tokens", 0.0)
        rate = made / (now.at_s - before.at_s) if made >= 0 else None
    gauges = (now.sample.get(name) for name in ("running", "waiting", "kv_cache_usage"))
    return Traffic(rate, *gauges)


def rows_of(plan: Plan, processes: list[ProcessStatus], loads: Mapping[str, list[GpuLoad]]) -> list[RankRow]:
    """A row for each rank that has a GPU of its own, else one for each process."""
    places = {placement.process: placement for placement in plan.placements}
    rows = []
    for one in processes:
        facts = (one.host, one.health, one.memory_bytes, one.uptime_s)
        place = places.get(one.process)
        ranks, gpus = ([], []) if place is None else (place.ranks, place.gpus)
        if not gpus:
            rows.append(RankRow(one.process, ",".join(map(str, ranks)), *facts))
        by_index = {load.index: load for load in loads.get(one.host, [])}
        for rank, gpu in zip_longest(ranks, gpus) if gpus else ():
            rows.append(RankRow(one.process, "" if rank is None else str(rank), *facts, gpu, by_index.get(gpu)))
    return rows


class _Questions(Generic[T]):
    """A question to several, asked again and again in threads of a pool, of each once at a time."""

    def __init__(self, pool: ThreadPoolExecutor, asks: Mapping[str, Callable[[], T]]) -> None:
        self._pool, self._asks = pool, asks
        self._asking: dict[str, tuple[Future[T], float]] = {}

    def begin(self) -> None:
        """Ask each that has answered the last time."""
        for who, ask in self._asks.items():
            if who not in self._asking:
                self._asking[who] = self._pool.submit(ask), time.monotonic()

    def end(self, deadline_s: float) -> tuple[dict[str, T], dict[str, str]]:
        """What was answered by then, and why the others gave no answer, or none yet."""
        answers, silent = {}, {}
        for who, (asked, since_s) in list(self._asking.items()):
            try:
                answers[who] = asked.result(max(0.0, deadline_s - time.monotonic()))
            except TimeoutError:
                silent[who] = f"no answer for {time.monotonic() - since_s:.0f} s"
                continue
            except OverspanError as error:
                silent[who] = error.in_one_line.removeprefix(f"{who}: ")
            del self._asking[who]
        return answers, silent


class Live:
    """Looks at one run again and again.

    Raises:
        RunDamaged: its folder cannot be read.
    """

    def __init__(self, run: RunFolder, transports: Mapping[str, Transport] | None = None) -> None:
        self._run, self._plan = run, run.plan()
        self._engine = registry.find(self._plan.engine.name)
        whole = launcher_of(self._plan, run, transports)
        self._http = http_client(self._plan.endpoint.base_url, None, PATIENCE_S)
        self._before: MetricsReading | None = None
        pool = self._pool = ThreadPoolExecutor(2 * len(whole.transports) + 1, thread_name_prefix="live")
        # One launcher for each host, so that none waits for another.
        self._launchers = {host: launcher_of(self._plan, run, {host: way}) for host, way in whole.transports.items()}
        self._members = _Questions(pool, {host: partial(_members_on, one) for host, one in self._launchers.items()})
        with_gpus = {host.name for host in whole.hosts if host.gpus} & whole.transports.keys()
        self._loads = _Questions(pool, {host: partial(_load_on, whole.transports[host]) for host in with_gpus})
        endpoint = {} if self._plan.is_joiner else {"endpoint": self._ask_metrics}  # it is the head's
        self._metrics = _Questions(pool, endpoint)

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
        for asked in (self._metrics, self._members, self._loads):
            asked.begin()
        deadline_s = time.monotonic() + patience_s
        status = overview(self._run, self._plan, lambda state: self._processes(state, deadline_s))
        if status.state in FINAL_STATES:
            return Sight(status, [], None, {}, None)
        loads, without_load = self._loads.end(deadline_s)
        metrics, problems = self._metrics.end(deadline_s)
        problems |= {f"GPUs of {host}": why for host, why in without_load.items() if host not in status.unreachable}
        traffic = None
        for now in metrics.values():
            traffic, self._before = traffic_of(self._before, now), now
        rows = rows_of(self._plan, status.processes, loads)
        return Sight(status, rows, traffic, problems, self._engine.dashboard(self._plan))

    def _processes(self, state: State, deadline_s: float) -> tuple[list[ProcessStatus], dict[str, str]]:
        found, unreachable = self._members.end(deadline_s)
        seen = placed(self._plan, chain.from_iterable(found.values()), unreachable, state)
        return [*seen, *joined(self._run, self._plan)], unreachable

    def _ask_metrics(self) -> MetricsReading:
        key = run_secrets.key_of(self._run)
        found = read_metrics(self._http, self._plan.endpoint.base_url, self._engine.metrics, key)
        return MetricsReading(time.monotonic(), found)


def _members_on(launcher: Launcher) -> list[Member]:
    found, problems = launcher.look()
    for why in problems.values():
        raise HostUnreachable(why)
    return found


def _load_on(way: Transport) -> list[GpuLoad]:
    seen, _ = probes.look(way, GPU_LOAD)
    if seen.value is None:
        raise OverspanError(seen.why)
    return seen.value
