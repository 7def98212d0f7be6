"""Slow signs that no log line tells: from a run's plan, its processes, its bench, and what its hosts say now.

Each has the id of the log rule that it completes, where there is one. What a run's documents show stands in place of
what its logs leave open; a log that shows the failure stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

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
class RunDocuments:
    """What a run left beside its logs; `gpus` and `memory` were asked of its hosts just now, or are empty."""

    plan: Plan | None = None
    processes: Sequence[ProcessSpec] = ()
    bench: BenchResult | None = None
    verified: Sequence[Finding] = ()
    gpus: Sequence[GpuNow] = ()
    memory: Sequence[MemoryNow] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def signs(run: RunDocuments) -> list[Finding]:
    """One finding a sign, each passed, failed or not evaluated (and then why)."""
    return [_client_bound(run), _low_power(run), _one_hca(run), _page_cache(run), _sockets(run)]


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


def _sign(rule: str, title: str, **more: object) -> Finding:
    fields: dict[str, object] = {"rule": rule, "title": title, "category": "slow/perf", "severity": "warning", **more}
    if fields["status"] == "failed":
        fields.setdefault("role", "sign")
    return Finding.model_validate(fields)


def _client_bound(run: RunDocuments) -> Finding:
    rule, title = "bench-client-bound", "The load generator was the bottleneck"
    if run.bench is None:
        return _sign(rule, title, status="not_evaluated", cause="the run has no bench.json")
    bound = [point for point in run.bench.points if point.client_bound]
    if not bound:
        return _sign(rule, title, status="passed")
    texts = [
        f"concurrency {point.concurrency}: {'; '.join(point.client.reasons or ['marked client-bound'])}"
        for point in bound
    ]
    evidence = [Evidence(text=text, file=BENCH) for text in texts]
    return _sign(
        rule, title, status="failed", evidence=evidence[0], more=evidence[1:], confidence=0.9,
        cause="at these points the generator could not send or read faster: the figures are the client's",
        fix="fewer streams for one client, or the generator on a machine of its own with more cores",
    )  # fmt: skip


def _low_power(run: RunDocuments) -> Finding:
    rule, title = "gpu-busy-low-power", "GPUs are busy and draw little power (they wait)"
    kinds = _kinds(run.plan)
    readings = [*_live_readings(run, kinds), *_bench_readings(run, kinds)]
    if not readings:
        why = "no GPU of a kind whose waiting power is known was seen at work (bench.json, or the run's hosts now)"
        return _sign(rule, title, status="not_evaluated", cause=why)
    waiting = [evidence for evidence, busy, watt, limit in readings if busy >= BUSY_PERCENT and watt < limit]
    if not waiting:
        return _sign(rule, title, status="passed")
    return _sign(
        rule, title, status="failed", evidence=waiting[0], more=waiting[1:], confidence=0.8,
        cause="a GPU at full use with hardly any power spins inside a collective: one rank has died or diverged",
        fix="read every rank's log for the first error; py-spy dump --pid <pid> on the rank that is not in NCCL",
    )  # fmt: skip


def _kinds(plan: Plan | None) -> dict[str, list[str]]:
    """Kinds of GPU by host, of hosts that hold ranks."""
    if plan is None:
        return {}
    used = {placement.host for placement in plan.placements}
    return {host.name: [gpu.kind for gpu in host.gpus] for host in plan.inventory.hosts if host.name in used}


def _live_readings(run: RunDocuments, kinds: Mapping[str, list[str]]) -> list[tuple[Evidence, float, float, float]]:
    found = []
    for gpu in run.gpus:
        limit = min((LOW_POWER_W.get(kind, 0.0) for kind in kinds.get(gpu.host, [])), default=0.0)
        if limit and gpu.busy_percent is not None and gpu.power_w is not None:
            text = f"GPU {gpu.index} now: {gpu.busy_percent:.0f} % busy, {gpu.power_w:.0f} W"
            found.append((Evidence(text=text, host=gpu.host), gpu.busy_percent, gpu.power_w, limit))
    return found


def _bench_readings(run: RunDocuments, kinds: Mapping[str, list[str]]) -> list[tuple[Evidence, float, float, float]]:
    # The bench reads the GPUs of the machine that it runs on: the run's first host.
    first = next(iter(kinds.values()), [])
    limits = [LOW_POWER_W.get(kind, 0.0) for kind in first]
    found = []
    for point in run.bench.points if run.bench and limits and all(limits) else []:
        busy, power = (_mean(point.server.get(name)) for name in ("gpu_busy_percent", "gpu_power_w"))
        if busy is not None and power is not None:
            text = f"concurrency {point.concurrency}: {busy:.0f} % busy, {power:.0f} W over {len(first)} GPU(s)"
            found.append((Evidence(text=text, file=BENCH), busy, power, sum(limits)))
    return found


def _mean(gauge: GaugeSummary | float | str | None) -> float | None:
    return gauge.mean if isinstance(gauge, GaugeSummary) else None


def _one_hca(run: RunDocuments) -> Finding:
    rule, title = "one-hca-of-two", "NCCL uses one of the port's two devices"
    hosts = _fabric_hosts(run.plan)
    if not hosts:
        return _sign(rule, title, status="not_evaluated", cause="the plan has no second host with RDMA devices")
    left_out = []
    for host in hosts:
        given = _given_hcas(host, run.processes)
        twins = _active_twins(host, given)
        if twins:
            text = f"NCCL gets {','.join(sorted(given))}; {','.join(twins)} of the same cable is up and unused"
            left_out.append(Evidence(text=text, host=host.name, file=PROCESSES if run.processes else PLAN))
    if not left_out:
        return _sign(rule, title, status="passed")
    return _sign(
        rule, title, status="failed", evidence=left_out[0], more=left_out[1:], confidence=0.9,
        cause="one cable shows as twin devices, and NCCL needs both for the full rate; with one it gets about a half",
        fix="give both in the inventory (fabric.hcas of each host), and take NCCL_IB_HCA out of env",
    )  # fmt: skip


def _fabric_hosts(plan: Plan | None) -> list[Host]:
    used = {placement.host for placement in plan.placements} if plan else set()
    hosts = [host for host in plan.inventory.hosts if host.name in used] if plan else []
    with_rdma = [host for host in hosts if host.fabric and host.fabric.hcas]
    return with_rdma if len(hosts) > 1 else []


def _given_hcas(host: Host, processes: Sequence[ProcessSpec]) -> set[str]:
    named = [spec.env["NCCL_IB_HCA"] for spec in processes if spec.host == host.name and spec.env.get("NCCL_IB_HCA")]
    text = named[0] if named else ",".join(host.fabric.hcas if host.fabric else [])
    return {name.split(":")[0].lstrip("=") for name in text.split(",") if name}


def _active_twins(host: Host, given: set[str]) -> list[str]:
    """Devices that are up, share a cable with one that NCCL gets, and are not given to it."""
    by_interface = {nic.interface: nic for nic in host.nics}
    twins = [by_interface.get(nic.twin) for nic in host.nics if nic.twin and nic.rdma_device in given]
    return [nic.rdma_device for nic in twins if nic and nic.up and nic.rdma_device and nic.rdma_device not in given]


def _page_cache(run: RunDocuments) -> Finding:
    rule, title = "page-cache-holds-memory", "The page cache holds memory that the GPU shares"
    unified = {host.name for host in run.plan.inventory.hosts if any(gpu.unified_memory for gpu in host.gpus)} \
        if run.plan else set()  # fmt: skip
    if not unified:
        return _sign(rule, title, status="not_evaluated", cause="no host of the plan shares its memory with a GPU")
    asked = [memory for memory in run.memory if memory.host in unified]
    if not asked:
        return _sign(rule, title, status="not_evaluated", cause="the run is over, or its hosts did not answer")
    full = [memory for memory in asked if memory.cached_bytes > CACHE_SHARE * memory.total_bytes]
    if not full:
        return _sign(rule, title, status="passed")
    evidence = [
        Evidence(text=f"{one.cached_bytes / 2**30:.0f} of {one.total_bytes / 2**30:.0f} GiB in the page cache",
                 host=one.host) for one in full
    ]  # fmt: skip
    return _sign(
        rule, title, status="failed", evidence=evidence[0], more=evidence[1:], confidence=0.6,
        cause="on unified memory the cache counts against the GPU: the KV cache comes out smaller, or the start fails",
        fix="before the start, on each host: sync; echo 3 | sudo tee /proc/sys/vm/drop_caches",
    )  # fmt: skip


def _sockets(run: RunDocuments) -> Finding:
    """What the run's own verification read from NCCL's channels."""
    rule, title = "nccl-on-sockets-slow", "NCCL goes over TCP sockets, not RDMA"
    said = next((finding for finding in run.verified if finding.rule == "nccl.transport"), None)
    if said is None:
        return _sign(rule, title, status="not_evaluated", cause="verify.json does not tell NCCL's transport")
    return said.with_(rule=rule, title=title, category="slow/perf")
