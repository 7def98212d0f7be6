"""The server's side, seen beside a load: vLLM's /metrics, read by a process of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Final

from overspan.bench.process import helper
from overspan.endpoint.client import NoAnswer, http_client
from overspan.endpoint.metric_names import MetricNames
from overspan.endpoint.metrics import Metrics, read_metrics
from overspan.endpoint.target import EndpointTarget
from overspan.schema.secrets import Secret
from overspan.schema.workload import GaugeSummary, ServerMetrics

_INTERVAL_S: Final = 0.5
_READ_S: Final = 2.0
_PATIENCE_S: Final = 3 * _READ_S
"""For a sample that was begun, and one more."""


def summarise(samples: Sequence[Metrics], names: MetricNames) -> ServerMetrics:
    """Gauges as mean and maximum, counters as what they grew by."""
    summary: ServerMetrics = {"samples": len(samples)} if samples else {}
    for name in dict.fromkeys([*names.gauges.values(), *names.shares.values()]):
        values = [sample[name] for sample in samples if name in sample]
        if values:
            summary[name] = GaugeSummary(mean=round(sum(values) / len(values), 4), max=max(values))
    grown = {}
    for name in names.counters.values():
        values = [sample[name] for sample in samples if name in sample]
        if values:
            grown[name] = values[-1] - values[0]
    if grown.get("prefix_cache_queries"):
        share = grown.get("prefix_cache_hits", 0.0) / grown["prefix_cache_queries"]
        return {**summary, **grown, "prefix_cache_hit_share": round(share, 4)}
    return {**summary, **grown}


class Watch:
    """Metricss a server twice a second from another process, so that the load's loop is not disturbed."""

    def __init__(self, target: EndpointTarget, names: MetricNames) -> None:
        self._names = names
        self._pipe: Connection | None = None
        self._gave_up = ""
        if target.tls is not None or target.proxy is not None:
            return
        self._process, self._pipe = helper(_watch, target.base_url, target.api_key, names)

    def begin(self) -> None:
        """A point begins: forget the samples until now."""
        self._ask("begin")

    def end(self) -> ServerMetrics:
        """The point ended: what was seen since `begin`, with a sample now; or why nothing was."""
        return summarise(self._ask("end"), self._names) or ({"not_read": self._gave_up} if self._gave_up else {})

    def _ask(self, what: str) -> list[Metrics]:
        if self._pipe is None:
            return []
        try:
            self._pipe.send(what)
            if not self._pipe.poll(_PATIENCE_S):
                self._gave_up = f"/metrics had no end within {_PATIENCE_S:g} s"
                self.close()
                return []
            answer: list[Metrics] = self._pipe.recv()
        except (EOFError, OSError):
            self._pipe = None
            return []
        return answer

    def close(self) -> None:
        """End the process."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
            self._process.join(2)
            if self._process.is_alive():
                self._process.terminate()


def _watch(pipe: Connection, base_url: str, api_key: Secret | None, names: MetricNames) -> None:
    http = http_client(base_url, api_key, _READ_S)

    def sample() -> Metrics:
        found: Metrics = {}
        with contextlib.suppress(NoAnswer):  # a server without metrics has no samples
            found = read_metrics(http, base_url, names)
        return found

    samples: list[Metrics] = []
    while True:
        began = time.monotonic()
        if pipe.poll(0):
            try:
                message = pipe.recv()
            except EOFError:
                return
            samples = [] if message == "begin" else samples
            samples.append(sample())
            pipe.send([sample for sample in samples if sample])
            continue
        samples.append(sample())
        pipe.poll(max(0.0, _INTERVAL_S - (time.monotonic() - began)))
