"""A bench: each level of a workload against one endpoint, every request written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from overspan import __version__
from overspan.bench.asked import length_differences
from overspan.bench.clocks import ClockWatch, GpuHosts, clock_notes, hosts_of_url
from overspan.bench.expected import LONG_S, PACE_TOKENS, SLOW_MS, slow_under_load, takes_long, takes_s
from overspan.bench.first_request import (
    BREAKS_ANSWERS,
    fails_with_ignore_eos,
    find_accepted,
    length_notes,
    one_request,
)
from overspan.bench.job import LoadJob, LoadOutcome, asks_of
from overspan.bench.levels import Level, Search, check_workload, levels_of
from overspan.bench.loop import LoadProgress
from overspan.bench.pauses import EngineLog, find_pauses
from overspan.bench.point import make_point
from overspan.bench.process import most_connections, raise_open_files
from overspan.bench.records import write_requests
from overspan.bench.self_test import calibrate
from overspan.bench.shards import run_shards
from overspan.bench.unseen import settle, unseen_tokens
from overspan.bench.watch import Watch
from overspan.endpoint.identify import identify
from overspan.endpoint.metric_names import MetricNames
from overspan.endpoint.target import make_target
from overspan.engines.vllm import VLLM_METRICS
from overspan.schema.errors import OverspanError
from overspan.schema.secrets import Secret
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint, BenchResult, Pauses, SelfTest, Workload

_WHY_S: Final = 60.0
"""How long a request may take that is sent to find out why others failed."""

PointProgress = Callable[[str, int, int, int], None]
"""Called with the level's name, and how many requests ended, failed and are in flight."""


_WARMUPS: Final = 5
"""A warm-up is repeated while the server pauses in it, so many times at most. Source: Overspan's choice."""


class _Watches(NamedTuple):
    """What looks at the server's side while a point is measured."""

    server: Watch
    clocks: ClockWatch


class Bench:
    """One workload against one endpoint.

    Args:
        base_url: with `/v1`.
        model: the name that the server knows; None for the only one that it serves.
        folder: where `requests-<level>.jsonl` go; None to write none.
        insecure: do not check the certificate of an https endpoint.
        calibrated: compare the client with a known server first.
        metrics: the names of the engine that answers; an endpoint of unknown engine is asked by those of vLLM.
        engine_log: of the run that is measured, where it is one.
        gpus: the hosts whose GPUs serve; None for those of the address.
        tell: called with a sentence before the load, where it will take long.

    Raises:
        InputError: the workload cannot run, or the endpoint cannot be measured.
        HostUnreachable: nothing answers there.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None,
        workload: Workload,
        *,
        api_key: Secret | None = None,
        folder: Path | None = None,
        progress: PointProgress | None = None,
        insecure: bool = False,
        calibrated: bool = True,
        metrics: MetricNames = VLLM_METRICS,
        engine_log: EngineLog | None = None,
        gpus: GpuHosts | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        check_workload(workload)
        raise_open_files(max(workload.concurrency, default=0) // (workload.shards or 1))
        self.target = make_target(base_url, api_key, insecure=insecure)
        self.workload = workload
        self.model = identify(self.target, model).model
        self.interrupted = False
        self.broke = False
        self._insecure, self._metrics = insecure, metrics
        self._folder, self._engine_log = folder, engine_log
        self._progress = progress
        self._calibrated = calibrated
        self._calibration: SelfTest | None = None
        self._notes: list[str] = []
        self._blamed = self._said_long = False
        self._tell = tell
        self._gpus = gpus or hosts_of_url(self.target.host)

    def run(self) -> BenchResult:
        """Run every point. After Ctrl-C `interrupted` is set, after a failure of the client `broke`; the result then
        holds what was measured until then.

        Raises:
            InputError: the endpoint does not answer a first request.
            OverspanError: the client failed before the first point ended.
        """
        started = datetime.now(UTC).isoformat(timespec="seconds")
        watch = Watch(self.target, self._metrics)  # its process starts while the endpoint is asked
        clocks = ClockWatch(self._gpus)
        points: list[BenchPoint] = []
        try:
            for point in self._points(self._first_request(), _Watches(watch, clocks)):
                points.append(point)
        except KeyboardInterrupt:  # between two loads: inside of one the loop itself ends it
            if not points:
                raise
            self.interrupted = True
        except OverspanError as error:
            if not points:
                raise
            self.broke = True
            self._notes.append(f"ended before its time: {error.what}")
        finally:
            watch.close()
            clocks.close()
        left = len(levels_of(self.workload)) - len(points)
        if self.interrupted and left > 0 and not self.workload.search:
            self._notes.append(f"interrupted: {left} of the loads asked for were not begun")
        return BenchResult(
            base_url=self.target.base_url,
            model=self.model,
            started_at=started,
            workload=self.workload,
            points=points,
            overspan_version=__version__,
            notes=[*self._notes, *clocks.notes(points), *_notes_of(points, closed=self.workload.arrival == "closed")],
        )

    def _first_request(self) -> LoadJob:
        workload, target = self.workload, self.target
        words = max(1, workload.input_tokens - workload.shared_prefix_tokens)
        accepted = find_accepted(target, workload.endpoint, self.model, workload, words)
        self._notes = [*accepted.notes, *length_notes(accepted, words)]
        if accepted.moved:
            self.target = target = accepted.moved
            self._notes.append(f"the server sent the first request on to {target.base_url}: the load goes there")
        if self._tell is not None and takes_s(workload, accepted.pace.at_least(SLOW_MS)) > LONG_S:
            # The first request was short and may have waited for what happens once: another one tells the pace.
            again = find_accepted(target, workload.endpoint, self.model, workload, words, tokens=PACE_TOKENS)
            if told := takes_long(workload, again.pace):
                self._said_long = True
                self._tell(told)
        if target.slower_path:
            self._notes.append(f"over {target.slower_path}")
        if self._calibrated:
            self._calibration = calibrate(max(workload.concurrency, default=64))
        accepted = replace(accepted, moved=None)  # a context of TLS cannot travel to another process
        return LoadJob(
            target.base_url, target.api_key, self._insecure, self.model, workload, accepted, tail=target.tail
        )

    def _points(self, job: LoadJob, watch: _Watches) -> Iterator[BenchPoint]:
        if self.workload.search:
            yield from self._search(job, watch)
            return
        for level in levels_of(self.workload):
            if not self.interrupted and self._warmed_up(job, level):
                yield (point := self._point(job, level, watch))
                self._why_failed(job, point)

    def _search(self, job: LoadJob, watch: _Watches) -> Iterator[BenchPoint]:
        first = levels_of(self.workload)[0]
        whole = first.users is not None
        start = float(first.users or 0) if whole else first.rate_per_s or 1.0
        most = most_connections() * (self.workload.shards or 1) if whole else None
        search = Search(start, whole, self.workload.slo_share, most)
        for load in search.loads():
            level = Level(users=int(load)) if whole else Level(rate_per_s=load)
            if not self._warmed_up(job, level):
                return
            point = self._point(job, level, watch, search.enough(load, self.workload.requests_at(level.users)))
            search.tell(load, point)
            yield point
            if self.interrupted:
                return
        limits = ", ".join(f"{metric} {limit:g} ms" for metric, limit in self.workload.slo_ms.items())
        self._notes.append(f"highest load with {self.workload.slo_share:.0%} of requests within {limits}: {search}")

    def _why_failed(self, job: LoadJob, point: BenchPoint) -> None:
        """Say that ignore_eos is why answers fail, where two that have it fail and the same two without it do not."""
        extras = job.accepted.extras
        failed = {kind for kind in point.requests.errors if kind in BREAKS_ANSWERS}
        if self.interrupted or self._blamed or "ignore_eos" not in extras or not failed:
            return
        job = replace(job, name="why-failed")
        without = replace(job.accepted, extras={key: value for key, value in extras.items() if key != "ignore_eos"})
        pair = asks_of(job), asks_of(replace(job, accepted=without))
        timeout_s = min(job.workload.timeout_s, _WHY_S)
        for user in (0, 1):
            bad, good = (
                one_request(self.target, job.workload.endpoint, asks.body(user, 0), timeout_s) for asks in pair
            )
            if bad.error not in failed or good.error is not None:
                return
        self._blamed = True
        bad.detail = self.target.hide(bad.detail)
        self._notes.append(fails_with_ignore_eos(bad, "leave it out with --no-ignore-eos"))

    def _warmed_up(self, job: LoadJob, level: Level) -> bool:
        """Send the requests that are not counted, and again while the server pauses; False when Ctrl-C ended them.

        They are of the load's own lengths and users, so that what the server compiles for them is compiled.
        """
        warmup, log = self.workload.warmup, self._engine_log
        few = Level(users=min(level.users or warmup, warmup))
        for attempt in range(1, _WARMUPS + 1 if warmup else 1):
            again = "" if attempt == 1 else f"-{attempt}"
            if log is not None:
                log.begin()
            streams, _, _ = self._run(replace(job, level=few, requests=warmup, name=f"warmup-{level.name}{again}"))
            if self.interrupted or not (find_pauses(streams) or (log is not None and log.count())):
                return not self.interrupted
        if warmup:
            self._notes.append(f"the server still paused in the last of {_WARMUPS} warm-ups of {level.name}")
        return not self.interrupted

    def _point(self, job: LoadJob, level: Level, watch: _Watches, requests: int | None = None) -> BenchPoint:
        workload = self.workload
        requests = None if workload.duration_s is not None else requests or workload.requests_at(level.users)
        log = self._engine_log
        watch.server.begin()
        watch.clocks.begin()
        if log is not None:
            log.begin()
        streams, audit, planned = self._run(replace(job, level=level, requests=requests, name=level.name))
        gpus, unknown, load = watch.clocks.end()
        server, logged = {**watch.server.end(), **load}, log.count() if log is not None else 0
        accepted = server.get("accepted_tokens")
        settle(streams, accepted if isinstance(accepted, int | float) else 0.0)
        if self._folder is not None:
            write_requests(self._folder / f"requests-{level.name}.jsonl", streams, audit.started_ns)
        slo, calibration = workload.slo_ms, self._calibration
        point = make_point(
            level, planned, streams, audit, slo=slo, calibration=calibration, server=server, logged=logged
        )
        return point.with_(gpus=gpus, gpus_unknown=unknown)

    def _run(self, job: LoadJob) -> LoadOutcome:
        outcome = run_shards(job, self._teller(job))
        self.interrupted = self.interrupted or outcome[1].cancelled
        return outcome

    def _teller(self, job: LoadJob) -> LoadProgress | None:
        progress, tell, begun = self._progress, self._tell, time.monotonic()
        users, requests = job.level.users, job.requests
        if progress is None and tell is None:
            return None

        def told(ended: int, failed: int, in_flight: int) -> None:
            if progress is not None:
                progress(job.name, ended, failed, in_flight)
            if tell is None or self._said_long or not users or not requests:
                return
            if said := slow_under_load(users, requests, ended, time.monotonic() - begun):
                self._said_long = True
                tell(said)

        return told


def _notes_of(points: list[BenchPoint], *, closed: bool) -> list[str]:
    notes = []
    for point in points:
        load = point.load
        if point.client_bound:
            notes.append(f"at {load} the client was the bottleneck: {'; '.join(point.client.reasons)}")
        if point.pauses is not None:
            notes += [f"at {load} {told}" for told in _of_pauses(point.pauses, steady=point.settled is not None)]
        if point.miscounted:
            requests = count(point.miscounted, "request")
            notes.append(f"at {load} the usage of {requests} is not of what came: {point.miscount}")
        notes += [*length_differences(point, load), *unseen_tokens(point, load), *clock_notes(point, load)]
        if closed and point.requests.planned < point.concurrency:
            notes.append(f"at {load} there were {point.requests.planned} requests: never more than that in flight")
        if closed and point.settled is None:
            notes.append(f"at {load} there was no steady window: give at least 4 requests a user")
    return notes


def _of_pauses(seen: Pauses, *, steady: bool) -> list[str]:
    notes = []
    if seen.count:
        how = f"{count(seen.count, 'time')}, {seen.seconds:.1f} s in all, {seen.longest_s:.1f} s at the longest"
        kept = (
            "the steady window leaves these times out, the other numbers hold them" if steady else "numbers hold them"
        )
        notes.append(f"the server stood still {how}: all requests in flight stopped together; {kept}")
    if seen.logged:
        lines = count(seen.logged, "time")
        notes.append(f"the engine's log told {lines} of a compilation or tuning that held up requests: measure again")
    return notes
