"""Clocks and power of the GPUs behind an endpoint: one nvidia-smi a host writes beside the load, and is read later."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from overspan.inventory.clocks import GpuSample, known_fields, parse_samples, query
from overspan.schema.defaults import LOOPBACKS
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Plan
from overspan.schema.workload import BenchPoint, GaugeSummary, GpuClocks, ServerMetrics
from overspan.transport.copying import Pipeable
from overspan.transport.local import Local, die_with_parent, spawn
from overspan.transport.reach import reach

_EVERY_MS: Final = 500
_AT_ONCE: Final = 16
_CAP: Final = "power cap"

_AT_LIMIT: Final = 0.98
"""Of the limit: where the driver does not say what slows a GPU, such a draw is at its cap. Source: an H200 that says so
draws 690 to 698 of 700 W (measured 2026-11-30)."""

_TOLD: Final = 0.05
"""A GPU that was slowed down for less of the time is no note."""

_SLOWER: Final = 0.99
"""Nor is one whose clock stayed above this share of what is possible: moments at the cap cost it nothing."""


@dataclass(frozen=True)
class GpuHosts:
    """The hosts whose GPUs serve, each with the way to it and its GPUs (None: all), and why others are not watched."""

    ways: Mapping[str, tuple[Pipeable, frozenset[int] | None]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    expected: bool = True


def hosts_of_run(plan: Plan) -> GpuHosts:
    """Those that hold ranks of a run, with the GPUs that it uses."""
    held: dict[str, set[int]] = {}
    for place in plan.placements:
        held.setdefault(place.host, set()).update(place.gpus)
    used = {host: gpus for host, gpus in held.items() if gpus}
    if plan.inventory.traits.chooses_hosts:
        return GpuHosts(unknown=dict.fromkeys(used, f"{plan.inventory.launcher} chose the host"))
    return GpuHosts({host: (reach(plan.host(host)), frozenset(gpus)) for host, gpus in used.items()})


def hosts_of_url(host: str) -> GpuHosts:
    """This machine, where an endpoint's address is of it; of others nothing is known."""
    if host in LOOPBACKS:
        return GpuHosts({"localhost": (Local(), None)}, expected=False)
    return GpuHosts(unknown={host: "only the endpoint is known, not the hosts behind it"})


@dataclass
class _Writer:
    """One nvidia-smi, and the file that it writes."""

    fields: Sequence[str]
    gpus: frozenset[int] | None
    path: Path
    process: subprocess.Popen[bytes]
    begin: int = 0


class ClockWatch:
    """Samples of all GPUs of some hosts, twice a second, while points are measured."""

    def __init__(self, hosts: GpuHosts) -> None:
        self._ways = [way for way, _ in hosts.ways.values()]
        self._unknown = dict(hosts.unknown)
        self._expected = hosts.expected
        self._folder = tempfile.TemporaryDirectory(prefix="overspan-clocks-")
        self._writers: dict[str, _Writer] = {}
        if not hosts.ways:
            return
        with ThreadPoolExecutor(min(len(hosts.ways), _AT_ONCE)) as pool:
            asked = {name: pool.submit(known_fields, way) for name, (way, _) in hosts.ways.items()}
        for number, (name, (way, gpus)) in enumerate(hosts.ways.items()):
            path = Path(self._folder.name) / f"{number}.csv"
            try:
                fields = asked[name].result()
                # Its own session: Ctrl-C is the load's. It ends with this process, however that ends.
                process = spawn(way.command(query(fields, _EVERY_MS)), log=path, env=dict(os.environ),
                                new_session=True, preexec=die_with_parent)  # fmt: skip
            except OverspanError as error:
                self._unknown[name] = f"{error.what}{f': {error.quote}' if error.quote else ''}"
            else:
                self._writers[name] = _Writer(fields, gpus, path, process)

    def begin(self) -> None:
        """A point begins."""
        for writer in self._writers.values():
            writer.begin = writer.path.stat().st_size

    def end(self) -> tuple[list[GpuClocks], dict[str, str], ServerMetrics]:
        """The point ended: each GPU, the hosts of which nothing is known, and what all GPUs draw and hold together."""
        found, unknown, ticks = [], dict(self._unknown), []
        for name, writer in self._writers.items():
            with writer.path.open("rb") as file:
                file.seek(writer.begin)
                text = file.read().decode("utf-8", "replace")
            samples = [one for one in parse_samples(text, writer.fields) if not writer.gpus or one.index in writer.gpus]
            by_gpu: dict[int, list[GpuSample]] = {}
            for sample in samples:
                by_gpu.setdefault(sample.index, []).append(sample)
            found += [clocks_of(name, index, held) for index, held in sorted(by_gpu.items())]
            ticks += [list(each) for each in by_gpu.values()]
            if not samples:
                ended = f"nvidia-smi ended with {writer.process.poll()}" if writer.process.poll() is not None else ""
                unknown[name] = ended or "no sample came in this time"
        return found, unknown, totals(ticks)

    def notes(self, points: Sequence[BenchPoint]) -> list[str]:
        """What to say of hosts whose clocks are not known; nothing of a machine that need not have a GPU."""
        unknown = {host: why for point in points for host, why in point.gpus_unknown.items()}
        return [f"GPU clocks of {host} are not known: {why}" for host, why in unknown.items()] if self._expected else []

    def close(self) -> None:
        """End what was started."""
        for writer in self._writers.values():
            writer.process.kill()
            writer.process.wait()
        for way in self._ways:
            way.close()
        self._writers = {}
        self._folder.cleanup()


def clocks_of(host: str, index: int, samples: Sequence[GpuSample]) -> GpuClocks:
    """One GPU over its samples, at least one."""

    def mean(value: Callable[[GpuSample], float | None]) -> float | None:
        told = [seen for sample in samples if (seen := value(sample)) is not None]
        return round(sum(told) / len(told), 4) if told else None

    shares = {name: mean(lambda one, name=name: one.slowed.get(name)) for name in samples[-1].slowed}  # type: ignore[misc]
    clocks = [sample.sm_mhz for sample in samples if sample.sm_mhz is not None]
    return GpuClocks(
        host=host,
        index=index,
        samples=len(samples),
        sm_clock_mhz=mean(lambda one: one.sm_mhz),
        lowest_sm_clock_mhz=min(clocks, default=None),
        max_sm_clock_mhz=mean(lambda one: one.max_sm_mhz),
        power_w=mean(lambda one: one.power_w),
        power_limit_w=mean(lambda one: one.limit_w),
        at_cap_share=mean(_at_cap),
        slowed={name: share for name, share in shares.items() if share and name != _CAP},
    )


def _at_cap(sample: GpuSample) -> float | None:
    if _CAP in sample.slowed:
        return float(sample.slowed[_CAP])
    known = sample.power_w is not None and sample.limit_w
    return float((sample.power_w or 0.0) >= _AT_LIMIT * (sample.limit_w or 0.0)) if known else None


def totals(gpus: Sequence[Sequence[GpuSample]]) -> ServerMetrics:
    """Power and memory of all GPUs together, and the busiest one's share of time; what no GPU tells is left out."""
    ticks = list(zip(*gpus, strict=False))
    values = {
        "gpu_power_w": [[one.power_w for one in tick] for tick in ticks],
        "gpu_memory_bytes": [[one.memory_bytes for one in tick] for tick in ticks],
        "gpu_busy_percent": [[one.busy_percent for one in tick] for tick in ticks],
    }
    found: ServerMetrics = {}
    for name, rows in values.items():
        over = max if name == "gpu_busy_percent" else sum
        told = [over(known) for row in rows if (known := [value for value in row if value is not None])]
        if told:
            found[name] = GaugeSummary(mean=round(sum(told) / len(told), 4), max=max(told))
    return found


def clock_notes(point: BenchPoint, load: str) -> list[str]:
    """What to say of a point whose GPUs were slowed down: the one that was most, and how many were."""
    notes = []
    for reason in [_CAP, *dict.fromkeys(name for gpu in point.gpus for name in gpu.slowed)]:
        slowed = [
            (share, gpu) for gpu in point.gpus if (share := _share(gpu, reason)) >= _TOLD and not _at_full_clock(gpu)
        ]
        if slowed:
            share, worst = max(slowed, key=lambda pair: pair[0])
            others = f" (and {len(slowed) - 1} more)" if len(slowed) > 1 else ""
            what = f"at its power cap{_power(worst)}" if reason == _CAP else f"slowed down by {reason}"
            notes.append(
                f"at {load} GPU {worst.index} of {worst.host}{others} was {what} for {share:.0%} of the time"
                + _clocks(worst)
            )
    return notes


def _at_full_clock(gpu: GpuClocks) -> bool:
    if gpu.sm_clock_mhz is None or gpu.max_sm_clock_mhz is None:
        return False
    return gpu.sm_clock_mhz >= _SLOWER * gpu.max_sm_clock_mhz


def _share(gpu: GpuClocks, reason: str) -> float:
    return (gpu.at_cap_share if reason == _CAP else gpu.slowed.get(reason)) or 0.0


def _power(gpu: GpuClocks) -> str:
    if gpu.power_w is None or gpu.power_limit_w is None:
        return ""
    return f" ({gpu.power_w:.0f} of {gpu.power_limit_w:.0f} W on average)"


def _clocks(gpu: GpuClocks) -> str:
    if gpu.sm_clock_mhz is None or gpu.lowest_sm_clock_mhz is None:
        return ""
    most = "" if gpu.max_sm_clock_mhz is None else f", {gpu.max_sm_clock_mhz:.0f} possible"
    return f": SM clock {gpu.sm_clock_mhz:.0f} MHz on average, {gpu.lowest_sm_clock_mhz:.0f} at the lowest{most}"
