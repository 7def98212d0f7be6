"""Several processes for one load, where one loop is not enough. They start together and report at the end."""

from __future__ import annotations

import os
import signal
from array import array
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, Final

from overspan.bench.audit import Audit
from overspan.bench.job import LoadJob, LoadOutcome, run_job, times_of
from overspan.bench.load import connections_for
from overspan.bench.loop import LoadProgress
from overspan.bench.process import hear_ctrl_c, helper
from overspan.schema.errors import OverspanError

STREAMS_A_SHARD: Final = 2000
"""Streams that one loop serves with slack. Source: shared/reference/load-generator.md, measured at 20 ms a token."""


def shards_for(job: LoadJob) -> int:
    """How many processes a job takes: those asked for, or one per 2,000 streams and no more than the cores."""
    streams = job.level.users or connections_for(times_of(job))
    wanted = job.workload.shards or min(-(-streams // STREAMS_A_SHARD), len(os.sched_getaffinity(0)))
    return max(1, min(wanted, streams, job.requests or streams))


def run_shards(job: LoadJob, progress: LoadProgress | None = None) -> LoadOutcome:
    """Run a job in as many processes as it takes.

    Raises:
        OverspanError: a process of the client died.
    """
    count = shards_for(job)
    if count == 1:
        return run_job(job, progress=progress)
    processes: list[SpawnProcess] = []
    pipes: list[Connection] = []
    for shard in range(count):
        process, pipe = helper(_shard, replace(job, shard=shard, shards=count))
        processes.append(process)
        pipes.append(pipe)
    try:
        whole = _gather(pipes, processes, progress)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    for process in processes:
        process.join(5)
    return whole


def _gather(pipes: list[Connection], processes: Sequence[SpawnProcess], progress: LoadProgress | None) -> LoadOutcome:
    for pipe in pipes:
        _receive(pipe)

    def hand_on(number: int, frame: FrameType | None) -> None:
        """Each shard ends and reports, whether it was meant too or this process alone."""
        for process in processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)

    before = signal.signal(signal.SIGINT, hand_on)
    for pipe in pipes:
        pipe.send("go")
    try:
        results = _results(pipes, progress)
    finally:
        signal.signal(signal.SIGINT, before)
    streams = sorted((stream for part, _, _ in results for stream in part), key=lambda stream: stream.intended_ns)
    for index, stream in enumerate(streams):
        stream.index = index
    return streams, _merged([audit for _, audit, _ in results]), sum(planned for _, _, planned in results)


def _results(pipes: list[Connection], progress: LoadProgress | None) -> list[Any]:
    open_pipes, results = list(pipes), []
    told: dict[int, tuple[int, int, int]] = {}
    while open_pipes:
        for pipe in wait(open_pipes):
            if not isinstance(pipe, Connection):
                continue
            kind, *rest = _receive(pipe)
            if kind == "result":
                results.append(rest)
                open_pipes.remove(pipe)
            elif progress is not None:
                told[id(pipe)] = (rest[0], rest[1], rest[2])
                progress(*(sum(column) for column in zip(*told.values(), strict=True)))
    return results


def _receive(pipe: Connection) -> Sequence[Any]:
    try:
        message: Sequence[Any] = pipe.recv()
    except EOFError:
        raise OverspanError("a process of the load generator died", next="run it again with --shards 1") from None
    if message[0] == "error":
        raise OverspanError(f"a process of the load generator failed: {message[1]}")
    return message


def _shard(pipe: Connection, job: LoadJob) -> None:
    """One process: ready, go, progress, result."""

    def start_together() -> None:
        pipe.send(("ready",))
        pipe.recv()
        hear_ctrl_c()

    def tell(ended: int, failed: int, in_flight: int) -> None:
        pipe.send(("progress", ended, failed, in_flight))

    try:
        result = run_job(job, progress=tell, before_start=start_together)
    except OverspanError as error:
        pipe.send(("error", error.what))
        return
    except KeyboardInterrupt:
        pipe.send(("error", "interrupted before its first request"))
        return
    pipe.send(("result", *result))


def _merged(audits: Sequence[Audit]) -> Audit:
    """One audit of several loops: counts add up, the busiest loop's CPU counts, every lag is kept."""
    whole = Audit(
        started_ns=min(audit.started_ns for audit in audits),
        ended_ns=max(audit.ended_ns for audit in audits),
        clock_drift_ns=max((audit.clock_drift_ns for audit in audits), key=abs),
        cancelled=any(audit.cancelled for audit in audits),
        shards=len(audits),
        busiest_cpu_share=max(audit.cpu_s / audit.wall_s for audit in audits if audit.wall_s),
    )
    for audit in audits:
        for name in ("cpu_s", "reads", "unstamped", "opened", "stale_retries"):
            setattr(whole, name, getattr(whole, name) + getattr(audit, name))
        whole.wall_s = max(whole.wall_s, audit.wall_s)
        whole.batches += array("q", audit.batches)
        whole.lags += array("q", audit.lags)
    return whole
