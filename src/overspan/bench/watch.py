"""The server's side, seen beside a load: vLLM's /metrics and this machine's GPUs, read by a process of its own."""

from __future__ import annotations

import contextlib
import http.client
import math
import multiprocessing
import re
import shutil
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final
from urllib.parse import urlsplit

from overspan.bench.interrupts import deaf_to_ctrl_c
from overspan.endpoint.target import Target
from overspan.schema.errors import OverspanError
from overspan.transport.local import Local

Sample = dict[str, float]

GAUGES: Final = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_usage",
    "vllm:gpu_cache_usage_perc": "kv_cache_usage",
}
"""Source: vllm/v1/metrics/loggers.py of 0.32; the second name of the cache's usage is that of vLLM before 0.10."""

COUNTERS: Final = {
    "vllm:num_preemptions": "preemptions",
    "vllm:prefix_cache_queries": "prefix_cache_queries",
    "vllm:prefix_cache_hits": "prefix_cache_hits",
    "vllm:prompt_tokens": "prompt_tokens",
    "vllm:generation_tokens": "generation_tokens",
    "vllm:spec_decode_num_draft_tokens": "drafted_tokens",
    "vllm:spec_decode_num_accepted_tokens": "accepted_tokens",
}
"""From the same file, and v1/spec_decode/metrics.py; the exposition adds `_total`."""

_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)
_INTERVAL_S: Final = 0.5
_READ_S: Final = 2.0
_PATIENCE_S: Final = 3 * _READ_S
"""For a sample that was begun, and one more, with what nvidia-smi takes."""
_NVIDIA_SMI: Final = "nvidia-smi --query-gpu=power.draw,memory.used,utilization.gpu --format=csv,noheader,nounits"


def read_metrics(text: str) -> Sample:
    """vLLM's own metrics of a Prometheus page over its labels (engines of a data-parallel group).

    Each is summed; the use of the cache, a share of 1, is the engines' mean.
    """
    found: Sample = {}
    caches = 0
    for name, value in _LINE.findall(text):
        known = GAUGES.get(name) or COUNTERS.get(name.removesuffix("_total"))
        with contextlib.suppress(ValueError):
            number = float(value)
            if known and math.isfinite(number):
                found[known] = found.get(known, 0.0) + number
                caches += known == "kv_cache_usage"
    if caches:
        found["kv_cache_usage"] /= caches
    return found


def read_gpus(text: str) -> Sample:
    """The answer of nvidia-smi: sums of power and memory, the busiest GPU's share of time."""
    rows = [[_float(cell) for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    if not rows:
        return {}
    power, memory, busy = zip(*rows, strict=True)
    return {"gpu_power_w": sum(power), "gpu_memory_bytes": sum(memory) * 2**20, "gpu_busy_percent": max(busy)}


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:  # "[N/A]"
        return 0.0


def summarise(samples: Sequence[Sample]) -> dict[str, Any]:
    """Gauges as mean and maximum, counters as what they grew by."""
    summary: dict[str, Any] = {"samples": len(samples)} if samples else {}
    for name in dict.fromkeys([*GAUGES.values(), "gpu_power_w", "gpu_memory_bytes", "gpu_busy_percent"]):
        values = [sample[name] for sample in samples if name in sample]
        if values:
            summary[name] = {"mean": round(sum(values) / len(values), 4), "max": max(values)}
    for name in COUNTERS.values():
        values = [sample[name] for sample in samples if name in sample]
        if values:
            summary[name] = values[-1] - values[0]
    if summary.get("prefix_cache_queries"):
        summary["prefix_cache_hit_share"] = round(summary["prefix_cache_hits"] / summary["prefix_cache_queries"], 4)
    return summary


class Watch:
    """Samples a server twice a second from another process, so that the load's loop is not disturbed."""

    def __init__(self, target: Target) -> None:
        self._pipe: Connection | None = None
        self._gave_up = ""
        if target.tls is not None or target.proxy is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        path = urlsplit(target.base_url).path.removesuffix("/v1") + "/metrics"
        arguments = (theirs, target.host, target.port, path, target.api_key)
        self._process = context.Process(target=_watch, args=arguments, daemon=True)
        with deaf_to_ctrl_c():
            self._process.start()
        theirs.close()

    def begin(self) -> None:
        """A point begins: forget the samples until now."""
        self._ask("begin")

    def end(self) -> dict[str, Any]:
        """The point ended: what was seen since `begin`, with a sample now; or why nothing was."""
        return summarise(self._ask("end")) or ({"not_read": self._gave_up} if self._gave_up else {})

    def _ask(self, what: str) -> list[Sample]:
        if self._pipe is None:
            return []
        try:
            self._pipe.send(what)
            if not self._pipe.poll(_PATIENCE_S):
                self._gave_up = f"/metrics had no end within {_PATIENCE_S:g} s"
                self.close()
                return []
            answer: list[Sample] = self._pipe.recv()
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


def _watch(pipe: Connection, host: str, port: int, path: str, api_key: str | None) -> None:
    gpus = shutil.which("nvidia-smi") is not None and host in ("127.0.0.1", "localhost", "::1")
    samples: list[Sample] = []
    while True:
        began = time.monotonic()
        if pipe.poll(0):
            try:
                message = pipe.recv()
            except EOFError:
                return
            samples = [] if message == "begin" else samples
            samples.append(_sample(host, port, path, api_key, gpus=gpus))
            pipe.send([sample for sample in samples if sample])
            continue
        samples.append(_sample(host, port, path, api_key, gpus=gpus))
        pipe.poll(max(0.0, _INTERVAL_S - (time.monotonic() - began)))


def _sample(host: str, port: int, path: str, api_key: str | None, *, gpus: bool) -> Sample:
    found: Sample = {}
    connection = http.client.HTTPConnection(host, port, timeout=_READ_S)
    with contextlib.suppress(OSError, http.client.HTTPException):  # a server without metrics has no samples
        connection.request("GET", path, headers={"Authorization": f"Bearer {api_key}"} if api_key else {})
        reply = connection.getresponse()
        text = reply.read(8 << 20).decode("utf-8", "replace")
        found = read_metrics(text) if reply.status == 200 else {}
    connection.close()
    if gpus:
        with contextlib.suppress(OverspanError):  # a driver that does not answer is no reason to end a bench
            found |= read_gpus(Local().run(_NVIDIA_SMI.split(), timeout_s=_READ_S).stdout)
    return found
