"""Run a sweep: one deployment at a time, every concurrency on it, each point written down before the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from overspan import __version__
from overspan.bench.clocks import hosts_of_run
from overspan.bench.pauses import EngineLog
from overspan.bench.run import Bench
from overspan.endpoint.client import Client, NoAnswer
from overspan.engines import registry
from overspan.launchers.registry import find
from overspan.runs.planning import Wanted
from overspan.runs.stop import stop
from overspan.runs.up import up
from overspan.schema.errors import OverspanError, PlanRefused, RunFailed
from overspan.schema.event import SERVING_STATES, Event
from overspan.schema.point import Point, PointResult
from overspan.schema.units import count
from overspan.schema.workload import BenchResult, Workload, load_words
from overspan.schema.yamlio import dump
from overspan.store import run_secrets
from overspan.store.files import write_whole
from overspan.store.locks import Say, is_held
from overspan.store.run_folder import RunFolder, all_runs
from overspan.sweep.expand import Deployment, SweepMatrix
from overspan.sweep.folder import SweepFolder
from overspan.sweep.results import derive, why_not
from overspan.verify import SHORT, wrong
from overspan.verify.of_run import verify_run


@dataclass(frozen=True)
class Listeners:
    """Who hears what happens.

    Attributes:
        say: is told in sentences.
        progress: with the point being measured, and how many requests ended, failed and are in flight.
    """

    say: Say
    progress: Callable[[Point, int, int, int], None]


def run_sweep(
    matrix: SweepMatrix, points: list[Point], folder: SweepFolder, told: Listeners, *, retry_failed: bool = False
) -> None:
    """Measure the points that have no result yet.

    A point that fails does not end the sweep. Ctrl-C does: the deployment is stopped, and the next call goes on with
    the point that was being measured. After a crash the next call goes on with the deployment that still runs.

    Args:
        matrix: the whole sweep.
        points: those of it to measure.
        folder: opened, with the results so far.
        told: who hears of it.
        retry_failed: measure those that failed once more.
    """
    require_startable(matrix, points)
    results = folder.measured(matrix.points).results
    done = {id for id, result in results.items() if result.state == "ok" or not retry_failed}
    wanted = {point.id for point in points} - done
    for deployment in matrix.deployments:
        todo = [point for point in deployment.points if point.id in wanted]
        if todo:
            _Serving(matrix, deployment, folder, told).measure(todo)


def require_startable(matrix: SweepMatrix, points: list[Point]) -> None:
    """Refuse points that nothing here can start, before anything of the sweep begins.

    Raises:
        PlanRefused: the launcher cannot start anything now, e.g. Slurm does not answer.
    """
    machines = matrix.inventory
    if points and (why := find(machines.launcher).refusal(machines)) is not None:
        reason = f"{machines.name}: {why}"
        raise PlanRefused(f"sweep {matrix.sweep.name} cannot be started:", [reason], next="look at it: --dry-run")


class _Serving:
    """One deployment of a sweep: started when first needed, again after a death, stopped at the end."""

    def __init__(self, matrix: SweepMatrix, deployment: Deployment, folder: SweepFolder, told: Listeners) -> None:
        self._matrix, self._deployment, self._folder, self._told = matrix, deployment, folder, told
        self._name = f"{matrix.sweep.name}-{deployment.id}"[:63].rstrip("-._")
        self._run: RunFolder | None = None

    def measure(self, points: list[Point]) -> None:
        """Measure points one after another."""
        try:
            for index, point in enumerate(points):
                began = _now()
                try:
                    run = self._running()
                except OverspanError as error:
                    for left in points[index:]:
                        self._end(left, began, f"the deployment did not start: {_told(error)}")
                    return
                self._measure(run, point, began)
        finally:
            if self._run is not None:
                stop(self._run, grace_s=0.0)
                self._folder.note("stopped", deployment=self._deployment.id, run=self._run.id)

    def _measure(self, run: RunFolder, point: Point, began: str) -> None:
        self._told.say(f"{point.id}: {count(point.requests, 'request')} at {load_words(point.concurrency)}")
        self._folder.note("measuring", point=point.id, run=run.id)
        try:
            result = self._bench(run, point)
            if result.points[0].disturbed:
                self._told.say(f"{point.id}: the server stood still at times: measured once more")
                result = self._again(run, point, result)
        except OverspanError as error:
            self._end(point, began, _told(error), run)
            return
        measured = result.points[0]
        reason = why_not(measured, run.findings(), self._matrix.sweep.constraints)
        derived = derive(point, measured)
        self._end(point, began, reason, run, measured=measured, derived=derived, notes=result.notes)

    def _again(self, run: RunFolder, point: Point, first: BenchResult) -> BenchResult:
        """A second measurement in place of the first, with other prompts: a prefix cache knows those of the first."""
        try:
            second = self._bench(run, point, seed=point.load.seed + 1)
        except OverspanError:
            return first
        return second.with_(notes=[*second.notes, "the server stood still in a first measurement; this is the second"])

    def _bench(self, run: RunFolder, point: Point, seed: int | None = None) -> BenchResult:
        plan = run.plan()
        endpoint, engine = plan.endpoint, registry.find(plan.engine.name)
        job = Bench(
            endpoint.base_url,
            endpoint.model,
            _workload(point) if seed is None else _workload(point).with_(seed=seed),
            api_key=run_secrets.key_of(run),
            folder=self._folder.requests(point),
            metrics=engine.metrics,
            engine_log=EngineLog(run.logs, engine.pause_line),
            gpus=hosts_of_run(plan),
            progress=lambda _, ended, failed, in_flight: self._told.progress(point, ended, failed, in_flight),
        )
        result = job.run()
        if job.interrupted or not result.points:
            self._folder.note("interrupted", point=point.id)
            raise KeyboardInterrupt
        return result

    def _end(self, point: Point, began: str, reason: str, run: RunFolder | None = None, **numbers: Any) -> None:
        """Write down how a point ended: well, where there is no reason against it."""
        result = PointResult(
            point=point,
            state="failed" if reason else "ok",
            reason=reason,
            run=run.id if run else None,
            engine_version=self._deployment.engine.version,
            started_at=began,
            ended_at=_now(),
            verification=run.findings() if run else [],
            overspan_version=__version__,
            **numbers,
        )
        self._folder.add(result)
        self._told.say(f"{point.id}: {result.state}{f': {reason}' if reason else ''}")

    def _running(self) -> RunFolder:
        """The run that serves, found right: the one at hand, the one that a crashed sweep left, or a new one."""
        if self._run is not None and _serves(self._run):
            return self._run
        if self._run is not None:
            stop(self._run, grace_s=0.0)
            self._run = None
        else:
            self._run = self._left_behind()
        if self._run is None:
            self._run = self._start()
        self._verify(self._run)
        return self._run

    def _verify(self, run: RunFolder) -> None:
        """Validity before speed: no number of a deployment counts before it was found right.

        Raises:
            RunFailed: it is not.
        """
        if not SHORT.keys() <= {finding.rule for finding in run.findings()}:
            self._told.say(f"{self._deployment.id}: verifying run {run.id}")
            verify_run(run, SHORT)
        bad = wrong(run.findings())
        if bad:
            seen = bad[0].evidence.text if bad[0].evidence else None
            raise RunFailed(f"run {run.id} is not right: {bad[0].rule}: {bad[0].cause}", quote=seen)

    def _left_behind(self) -> RunFolder | None:
        """The run of this deployment that outlived a crash of the sweep; any other of its name is stopped."""
        deployed = [line for line in self._folder.journal() if line["event"] == "deployed"]
        mine = [line["run"] for line in deployed if line["key"] == self._deployment.key]
        for run in all_runs():
            if run.name != self._name or not is_held(run.name) or run.ended:
                continue
            if run.id in mine and _serves(run):
                self._told.say(f"{self._deployment.id}: goes on with run {run.id}")
                return run
            stop(run, grace_s=0.0)
        return None

    def _start(self) -> RunFolder:
        topology = self._deployment.topology
        recipe = self._folder.path / f"recipe-{self._deployment.id}.yaml"
        label = topology.label if topology.disaggregated else None
        write_whole(recipe, dump(self._deployment.recipe.with_(topology=label)))
        machines = self._folder.path / "inventory.yaml"
        write_whole(machines, dump(self._matrix.inventory))
        head = self._deployment.placed.workers[0].placements[0].host
        inventory = self._matrix.inventory
        here = all(inventory.is_here(host) for host in inventory.hosts if host.name == head)
        # The layout is stated, else the planner would choose one: the file leaves out a layout that is the default.
        layout = f"layout={topology.answering.layout.label}"
        wanted = Wanted(str(recipe), str(machines), (layout, "port=0") if here else (layout,), self._name)
        self._told.say(f"{self._deployment.id}: starting {topology.label}")
        return up(wanted, self._told.say, self._follow)

    def _follow(self, run: RunFolder, events: Iterator[Event | None]) -> None:
        # The run is noted before it serves: the next call must find it also after a crash while it starts.
        self._folder.note("deployed", deployment=self._deployment.id, key=self._deployment.key, run=run.id)
        for event in events:
            if event is not None and event.state in ("ready", "verified", "failed"):
                self._told.say(f"{self._deployment.id}: {event.message}")


def _workload(point: Point) -> Workload:
    load = point.load

    def lengths(whole: int) -> tuple[int, str | None]:
        least = max(1, round(load.length_ratio * whole))
        return (whole, None) if least == whole else ((least + whole) // 2, f"uniform:{least}-{whole}")

    (inputs, input_lengths), (outputs, output_lengths) = lengths(point.isl), lengths(point.osl)
    return Workload(
        concurrency=[point.concurrency],
        requests=point.requests,
        warmup=point.warmup,
        input_tokens=inputs,
        input_lengths=input_lengths,
        output_tokens=outputs,
        output_lengths=output_lengths,
        timeout_s=load.timeout_s,
        endpoint=load.endpoint,
        seed=load.seed,
    )


def _serves(run: RunFolder) -> bool:
    """Whether a run is verified and answers now."""
    if run.state() not in SERVING_STATES - {"ready"}:
        return False
    with closing(Client(run.plan().endpoint, run_secrets.key_of(run))) as client:
        try:
            client.one_token()
        except NoAnswer:
            return False
    return True


def _told(error: OverspanError) -> str:
    quote = f" | {error.quote}" if error.quote else ""
    return f"{error.what}{quote}"[:2000]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
