"""Slow signs that no log line tells: from a run's plan, its processes, its bench, and what its hosts say now.

Each has the id and the words of the log rule that it completes. What a run's documents show stands in place of
what its logs leave open; a log that shows the failure stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from overspan.doctor.context import facts_of, fill
from overspan.doctor.rules import LogRule, load_rules
from overspan.schema.finding import Evidence, Finding
from overspan.schema.inventory import Host
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.workload import BenchResult, GaugeSummary

BUSY_PERCENT: Final = 95.0
"""Source: docs/sources.md#two-sparks: ranks that spin in NCCL show 96 %."""

LOW_POWER_W: Final = {"gb10": 25.0}
"""By kind of GPU, between what it draws spinning and working. Source: docs/sources.md#two-sparks: 15 to 20 W spinning;
tens of watts more at work. Other kinds are not judged: nothing measured says what they draw while they wait."""

CACHE_SHARE: Final = 0.25
"""Of a host's memory in the page cache, from which a unified-memory engine start is at risk. Source:
docs/sources.md#two-sparks: utilisation above 0.83 fails for some, so that a quarter in the cache is what is missing."""

BENCH, PLAN, PROCESSES = "bench.json", "plan.json", "processes.json"


@dataclass(frozen=True)
class GpuNow:
    """One GPU of the run at this moment; a value that the driver does not tell is none."""

    host: str
    index: int
    busy_percent: float | None
    power_w: float | None


@dataclass(frozen=True)
class MemoryNow:
    """One host's memory at this moment, bytes."""

    host: str
    total_bytes: int
    cached_bytes: int


@dataclass(frozen=True)
class SignInputs:
    """What a run left beside its logs; `gpus` and `memory` were asked of its hosts just now, or are empty."""

    plan: Plan | None = None
    processes: Sequence[ProcessSpec] = ()
    bench: BenchResult | None = None
    verified: Sequence[Finding] = ()
    gpus: Sequence[GpuNow] = ()
    memory: Sequence[MemoryNow] = ()

    @property
    def hosts(self) -> list[Host]:
        """The plan's hosts that hold ranks."""
        used = {placement.host for placement in self.plan.placements} if self.plan else set()
        return [host for host in self.plan.inventory.hosts if host.name in used] if self.plan else []


def signs(run: SignInputs) -> list[Finding]:
    """One finding a sign, each passed, failed or not evaluated (and then why), in the words of its log rule."""
    rules = {rule.id: rule for rule in load_rules()}
    facts, _ = facts_of(run.plan) if run.plan else ({}, {})
    return [_finding(rules[name], read(run), facts) for name, read in SIGNS.items()]


def _finding(rule: LogRule, seen: list[Evidence] | Finding | str, facts: Mapping[str, str]) -> Finding:
    if isinstance(seen, Finding):
        return seen.with_(rule=rule.id, title=rule.title, category=rule.category)
    if isinstance(seen, str):
        return rule.finding("not_evaluated", cause=seen)
    if not seen:
        return rule.finding("passed")
    said = {"cause": fill(rule.cause, facts), "fix": fill(rule.fix, facts)}
    return rule.finding("failed", role="sign", evidence=seen[0], more=seen[1:], confidence=rule.trust, **said)


def merged(findings: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """The log rules' findings with the signs in their places: a failed one stays, else the documents tell."""
    by_rule = {finding.rule: finding for finding in found}
    known = {finding.rule for finding in findings}
    kept = [_better(finding, by_rule.get(finding.rule)) for finding in findings]
    kept += [finding for finding in found if finding.rule not in known]
    order = {"failed": 0, "not_evaluated": 1, "passed": 2}
    failed = [finding for finding in kept if finding.status == "failed"]
    rest = [finding for finding in kept if finding.status != "failed"]
    # Stable: the root stays first, and what is unknown stays before what merely passed.
    return [*failed, *sorted(rest, key=lambda finding: order[finding.status])]


def _better(logged: Finding, sign: Finding | None) -> Finding:
    # A log without the lines that would show it is no proof: where the documents cannot tell either, nothing was seen.
    if sign is None or logged.status == "failed":
        return logged
    return sign.with_(title=logged.title or sign.title, category=logged.category)


def _client_bound(run: SignInputs) -> list[Evidence] | str:
    if run.bench is None:
        return "the run has no bench.json"
    bound = [point for point in run.bench.points if point.client_bound]
    reasons = [(point.concurrency, "; ".join(point.client.reasons or ["marked client-bound"])) for point in bound]
    return [Evidence(text=f"concurrency {at}: {why}", file=BENCH) for at, why in reasons]


def _low_power(run: SignInputs) -> list[Evidence] | str:
    readings = [*_live_readings(run), *_bench_readings(run)]
    if not readings:
        return "no GPU of a kind whose waiting power is known was seen at work (bench.json, or the run's hosts now)"
    return [evidence for evidence, busy, watt, limit in readings if busy >= BUSY_PERCENT and watt < limit]


Reading = tuple[Evidence, float, float, float]
"""Where it was read, how busy a GPU was in percent, the power that it drew in W, and that below which it waits."""


def _live_readings(run: SignInputs) -> Iterator[Reading]:
    kinds = {host.name: [gpu.kind for gpu in host.gpus] for host in run.hosts}
    for gpu in run.gpus:
        limit = min((LOW_POWER_W.get(kind, 0.0) for kind in kinds.get(gpu.host, [])), default=0.0)
        if limit and gpu.busy_percent is not None and gpu.power_w is not None:
            text = f"GPU {gpu.index} now: {gpu.busy_percent:.0f} % busy, {gpu.power_w:.0f} W"
            yield Evidence(text=text, host=gpu.host), gpu.busy_percent, gpu.power_w, limit


def _bench_readings(run: SignInputs) -> Iterator[Reading]:
    # The bench reads the GPUs of the machine that it runs on: the run's first host.
    limits = [LOW_POWER_W.get(gpu.kind, 0.0) for host in run.hosts[:1] for gpu in host.gpus]
    for point in run.bench.points if run.bench and limits and all(limits) else []:
        busy, power = (_mean(point.server.get(name)) for name in ("gpu_busy_percent", "gpu_power_w"))
        if busy is not None and power is not None:
            text = f"concurrency {point.concurrency}: {busy:.0f} % busy, {power:.0f} W over {len(limits)} GPU(s)"
            yield Evidence(text=text, file=BENCH), busy, power, sum(limits)


def _mean(gauge: GaugeSummary | float | str | None) -> float | None:
    return gauge.mean if isinstance(gauge, GaugeSummary) else None


def _one_hca(run: SignInputs) -> list[Evidence] | str:
    hosts = [host for host in run.hosts if host.fabric and host.fabric.hcas]
    if len(run.hosts) < 2 or not hosts:
        return "the plan has no second host with RDMA devices"
    found = []
    for host in hosts:
        given = _given_hcas(host, run.processes)
        if unused := _active_twins(host, given):
            text = f"NCCL gets {','.join(sorted(given))}; {','.join(unused)} of the same cable is up and unused"
            found.append(Evidence(text=text, host=host.name, file=PROCESSES if run.processes else PLAN))
    return found


def _given_hcas(host: Host, processes: Sequence[ProcessSpec]) -> set[str]:
    named = [spec.env["NCCL_IB_HCA"] for spec in processes if spec.host == host.name and spec.env.get("NCCL_IB_HCA")]
    text = named[0] if named else ",".join(host.fabric.hcas if host.fabric else [])
    return {name.split(":")[0].lstrip("=") for name in text.split(",") if name}


def _active_twins(host: Host, given: set[str]) -> list[str]:
    """Devices that are up, share a cable with one that NCCL gets, and are not given to it."""
    by_interface = {nic.interface: nic for nic in host.nics}
    twins = [by_interface.get(nic.twin) for nic in host.nics if nic.twin and nic.rdma_device in given]
    return [nic.rdma_device for nic in twins if nic and nic.up and nic.rdma_device and nic.rdma_device not in given]


def _page_cache(run: SignInputs) -> list[Evidence] | str:
    hosts = run.plan.inventory.hosts if run.plan else []
    unified = {host.name for host in hosts if any(gpu.unified_memory for gpu in host.gpus)}
    if not unified:
        return "no host of the plan shares its memory with a GPU"
    asked = [memory for memory in run.memory if memory.host in unified]
    if not asked:
        return "the run is over, or its hosts did not answer"
    full = [one for one in asked if one.cached_bytes > CACHE_SHARE * one.total_bytes]
    return [
        Evidence(
            text=f"{one.cached_bytes / 2**30:.0f} of {one.total_bytes / 2**30:.0f} GiB in the page cache", host=one.host
        )
        for one in full
    ]


def _sockets(run: SignInputs) -> Finding | str:
    """What the run's own verification read from NCCL's channels."""
    said = next((finding for finding in run.verified if finding.rule == "nccl.transport"), None)
    return said or "verify.json does not tell NCCL's transport"


SIGNS: Final[dict[str, Callable[[SignInputs], list[Evidence] | Finding | str]]] = {
    "bench-client-bound": _client_bound,
    "gpu-busy-low-power": _low_power,
    "one-hca-of-two": _one_hca,
    "page-cache-holds-memory": _page_cache,
    "nccl-on-sockets-slow": _sockets,
}
"""What reads each sign, by the id of its rule: the evidence, none where all is well, or why it cannot be told."""
