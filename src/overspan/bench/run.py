"""A bench: each concurrency of a workload against one endpoint, every request written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overspan import __version__
from overspan.bench.audit import audit_report
from overspan.bench.endpoint import Accepted, check_model, find_accepted, words_for
from overspan.bench.load import ClosedLoop
from overspan.bench.loop import Audit, Loop, Progress, raise_open_files
from overspan.bench.metrics import NS_PER_MS, Samples, counts, summary, throughput
from overspan.bench.prompts import Prompts, path_of
from overspan.bench.stream import Stream
from overspan.bench.target import Target
from overspan.schema.workload import BenchPoint, BenchResult, Workload

PointProgress = Callable[[int, int, int, int, int], None]
"""Called with concurrency, planned, ended, failed and in flight."""


class Bench:
    """One workload against one endpoint.

    Args:
        model: the name that the server knows; None for the only one that it serves.
        folder: where `requests-<concurrency>.jsonl` go; None to write none.
    """

    def __init__(
        self,
        target: Target,
        model: str | None,
        workload: Workload,
        *,
        folder: Path | None = None,
        progress: PointProgress | None = None,
        insecure: bool = False,
    ) -> None:
        raise_open_files(max(workload.concurrency))
        self.target = target
        self.workload = workload
        self.model = check_model(target, model, insecure=insecure)
        self.interrupted = False
        self._folder = folder
        self._progress = progress
        self._accepted: Accepted | None = None

    def run(self) -> BenchResult:
        """Run every point. After Ctrl-C `interrupted` is set and the result holds what was measured until then.

        Raises:
            InputError: the endpoint does not answer a first request.
        """
        workload, target = self.workload, self.target
        started = datetime.now(UTC).isoformat(timespec="seconds")
        accepted = find_accepted(
            target,
            workload.endpoint,
            self.model,
            seed=f"{workload.seed}/probe",
            timeout_s=workload.timeout_s,
            words=workload.input_tokens,
        )
        words, notes = words_for(target, workload.endpoint, accepted, workload.input_tokens)
        self._accepted = accepted
        notes = [*accepted.notes, *notes]
        if target.slower_path:
            notes.append(f"over {target.slower_path}: a slower path, without kernel timestamps")
        points = list(self._points(words))
        return BenchResult(
            base_url=target.base_url,
            model=self.model,
            started_at=started,
            workload=workload,
            points=points,
            overspan_version=__version__,
            notes=[*notes, *_notes_of(points, workload)],
        )

    def _points(self, words: int) -> Iterator[BenchPoint]:
        for concurrency in self.workload.concurrency:
            if self.workload.warmup:
                self._load(min(concurrency, self.workload.warmup), self.workload.warmup, words, "warmup", None)
            if not self.interrupted:
                yield self._point(concurrency, words)

    def _point(self, concurrency: int, words: int) -> BenchPoint:
        planned = self.workload.requests

        def progress(ended: int, failed: int, in_flight: int) -> None:
            if self._progress is not None:
                self._progress(concurrency, planned, ended, failed, in_flight)

        streams, audit = self._load(concurrency, planned, words, str(concurrency), progress)
        if self._folder is not None:
            write_requests(self._folder / f"requests-{concurrency}.jsonl", streams, audit.started_ns)
        return make_point(concurrency, planned, streams, audit)

    def _load(
        self, users: int, requests: int, words: int, name: str, progress: Progress | None
    ) -> tuple[list[Stream], Audit]:
        workload, accepted = self.workload, self._accepted
        if accepted is None:
            raise ValueError("the endpoint was not asked yet")
        prompts = Prompts(
            workload.endpoint,
            self.model,
            seed=f"{workload.seed}/{name}",
            output_tokens=workload.output_tokens,
            extras=accepted.extras,
            usage=accepted.usage,
        )
        head = self.target.head(path_of(workload.endpoint))

        def message(_: int) -> bytes:
            body = prompts.body(words)
            return b"%b%d\r\n\r\n%b" % (head, len(body), body)

        loop = Loop(self.target, ClosedLoop(users, requests, message), timeout_s=workload.timeout_s, progress=progress)
        streams = loop.run()
        self.interrupted = self.interrupted or loop.audit.cancelled
        return streams, loop.audit


def make_point(concurrency: int, planned: int, streams: list[Stream], audit: Audit) -> BenchPoint:
    """Summarise one concurrency."""
    samples = Samples()
    for stream in streams:
        if stream.error is None:
            samples.add(stream)
    client, reasons = audit_report(audit, streams, samples, min(concurrency, planned))
    rates = throughput(streams)
    return BenchPoint(
        concurrency=concurrency,
        requests=counts(streams, planned),
        ttft_ms=summary(samples.ttft),
        tpot_ms=summary(samples.tpot),
        itl_ms=summary(samples.itl),
        chunk_gap_ms=summary(samples.chunk_gap),
        e2e_ms=summary(samples.e2e),
        output_tokens_per_s=rates.output_tokens_per_s,
        input_tokens_per_s=rates.input_tokens_per_s,
        total_tokens_per_s=rates.total_tokens_per_s,
        duration_s=rates.duration_s,
        client_bound=bool(reasons),
        client=client,
    )


def _notes_of(points: list[BenchPoint], workload: Workload) -> list[str]:
    notes = []
    for point in points:
        if point.client_bound:
            reasons = "; ".join(point.client["reasons"])
            notes.append(f"at {point.concurrency} the client was the bottleneck: {reasons}")
        if workload.requests < 2 * point.concurrency:
            notes.append(f"at {point.concurrency}: {workload.requests} requests are too few for a steady window")
    return notes


def write_requests(path: Path, streams: list[Stream], started_ns: int) -> None:
    """Write one line a request, in the order that they were made. Times are milliseconds from the point's start."""
    with path.open("w", encoding="utf-8") as lines:
        for stream in sorted(streams, key=lambda stream: stream.index):
            lines.write(json.dumps(_line(stream, started_ns)) + "\n")


def _line(stream: Stream, started_ns: int) -> dict[str, Any]:
    def since(at_ns: int) -> float | None:
        return round((at_ns - started_ns) / NS_PER_MS, 4) if at_ns else None

    stamps = stream.stamps
    return {
        "index": stream.index,
        "intended_ms": since(stream.intended_ns),
        "send_ms": since(stream.send_ns),
        "first_token_ms": since(stamps[0]) if stamps else None,
        "last_token_ms": since(stamps[-1]) if stamps else None,
        "end_ms": since(stream.end_ns),
        "input_tokens": stream.input_tokens,
        "output_tokens": stream.output_tokens,
        "chunks": len(stamps),
        "first_chunk_tokens": stream.first_chunk_tokens if stamps else None,
        "finish_reason": stream.finish,
        "retried": stream.retried,
        "error": stream.error,
        "detail": stream.detail,
    }
