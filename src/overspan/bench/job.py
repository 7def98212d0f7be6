"""One point's load as a value, so that it can run here or in several processes; and how it becomes a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from overspan.bench.audit import Audit
from overspan.bench.first_request import Accepted
from overspan.bench.lengths import parse_lengths
from overspan.bench.levels import Level
from overspan.bench.load import ClosedLoop, OpenLoop, RequestSource, arrivals, connections_for
from overspan.bench.loop import LoadProgress, Loop
from overspan.bench.prompts import Bodies, Replay, Synthetic, path_of
from overspan.bench.stream import Message, Stream
from overspan.bench.trace import read_trace
from overspan.catalog.words import WORDS
from overspan.endpoint.target import EndpointTarget, make_target
from overspan.schema.secrets import Secret
from overspan.schema.workload import Workload

LoadOutcome = tuple[list[Stream], Audit, int]
"""The requests of a job, the loop's word about itself, and how many requests were planned."""


@dataclass(frozen=True)
class LoadJob:
    """All that a process needs to run its share of one point."""

    base_url: str
    api_key: Secret | None
    insecure: bool
    model: str
    workload: Workload
    accepted: Accepted
    level: Level = field(default_factory=Level)
    requests: int | None = None
    name: str = ""
    shard: int = 0
    shards: int = 1
    tail: str = ""


def asks_of(job: LoadJob) -> Synthetic | Replay:
    """What the requests of a job say."""
    workload, seed = job.workload, f"{job.workload.seed}/{job.name}"
    accepted = job.accepted
    bodies = Bodies(
        workload.endpoint,
        job.model,
        seed=seed,
        extras=accepted.extras,
        usage=accepted.usage,
        words=accepted.words or WORDS,
    )
    if workload.trace is not None:
        return Replay(bodies, read_trace(Path(workload.trace))[0], overhead=accepted.overhead_tokens or 0)
    return Synthetic(
        bodies,
        seed=seed,
        inputs=parse_lengths(workload.input_lengths or str(workload.input_tokens)),
        outputs=parse_lengths(workload.output_lengths or str(workload.output_tokens)),
        overhead=job.accepted.overhead_tokens or 0,
        turns=workload.turns,
        prefix_words=workload.shared_prefix_tokens,
    )


def load_of(job: LoadJob, target: EndpointTarget) -> RequestSource:
    """The requests of a job and their times."""
    asks, head = asks_of(job), target.head(path_of(job.workload.endpoint))

    def message(user: int, step: int) -> bytes:
        body = asks.body(user, step)
        return Message.of(b"%b%d\r\n\r\n%b" % (head, len(body), body), body.input_tokens, body.output_tokens)

    return _closed(job, message) if job.level.users is not None else _open(job, message)


def _part(whole: int, job: LoadJob) -> tuple[int, int]:
    begin = whole * job.shard // job.shards
    return begin, whole * (job.shard + 1) // job.shards - begin


def _closed(job: LoadJob, message: Callable[[int, int], bytes]) -> ClosedLoop:
    workload = job.workload
    first, users = _part(job.level.users or 0, job)
    requests = None if job.requests is None else _part(job.requests, job)[1]
    conversing = workload.turns > 1

    def request_of(number: int, step: int) -> bytes:
        return message(first + number if conversing else number * job.shards + job.shard, step)

    return ClosedLoop(
        users,
        requests,
        request_of,
        duration_s=workload.duration_s if job.requests is None else None,
        ramp_s=workload.ramp_s,
        conversing=conversing,
    )


def _open(job: LoadJob, message: Callable[[int, int], bytes]) -> OpenLoop:
    times = times_of(job)
    mine = times[job.shard :: job.shards]
    users = range(job.shard, len(times), job.shards)
    return OpenLoop(mine, lambda user, step: message(users[user], step), connections=connections_for(mine))


def times_of(job: LoadJob) -> list[float]:
    """The times of all requests of an open loop, of every shard, seconds from the start."""
    workload = job.workload
    if workload.arrival == "trace":
        entries, _ = read_trace(Path(workload.trace or ""))
        times = [entry.at_s / workload.trace_speed for entry in entries]
        end = workload.duration_s
        return [time for time in times if end is None or time < end][: job.requests]
    if workload.arrival == "closed" or job.level.rate_per_s is None:
        raise ValueError("a closed loop has no times")
    return arrivals(
        workload.arrival,
        job.level.rate_per_s,
        seed=f"{workload.seed}/{job.name}/arrivals",
        requests=job.requests,
        duration_s=workload.duration_s if job.requests is None else None,
        burstiness=workload.burstiness,
    )


def run_job(
    job: LoadJob, *, progress: LoadProgress | None = None, before_start: Callable[[], None] | None = None
) -> LoadOutcome:
    """Run a job in this process. For the arguments see `Loop`."""
    target = replace(make_target(job.base_url, job.api_key, insecure=job.insecure), tail=job.tail)
    load = load_of(job, target)
    loop = Loop(target, load, timeout_s=job.workload.timeout_s, progress=progress, before_start=before_start)
    streams = loop.run()
    for stream in streams:
        stream.detail = target.hide(stream.detail)
    return streams, loop.audit, load.planned
