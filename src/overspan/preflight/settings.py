"""What the plan itself says wrongly, once the user's own environment and arguments have had the last word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from packaging.version import Version

from overspan.preflight.facts import NOTHING, OVER_HOSTS, HostFacts, check, failed, group_check, not_asked, passed
from overspan.schema.finding import Finding
from overspan.schema.versions import version_of

RAY_MONITOR: Final = "RAY_memory_monitor_refresh_ms"

MNNVL_KINDS: Final = ("gb200", "gb300")
"""GPUs whose NVLink goes over hosts. Source: docs.nvidia.com, GB200 and GB300 NVL72."""


@group_check("preflight.host_ip", when=OVER_HOSTS, cost=NOTHING)
def own_addresses(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """VLLM_HOST_IP is each host's own. One value in a shared environment makes vLLM count too few nodes."""
    values = {host.name: host.setting("VLLM_HOST_IP") for host in hosts}
    for name, mine in values.items():
        alike = [other for other, theirs in values.items() if name != other and set(mine) & set(theirs)]
        told = ", ".join(mine) or "VLLM_HOST_IP is not set"
        if not alike:
            yield name, passed(None, told)
            continue
        cause = f"{name} and {', '.join(alike)} have one VLLM_HOST_IP, {mine[0]}: vLLM would count one node"
        fix = "take VLLM_HOST_IP out of env: each host has its own fabric address by itself"
        yield name, failed(None, told, cause=cause, fix=fix)


@check(
    "preflight.ray_memory",
    when=lambda host: bool(host.setting(RAY_MONITOR)) and any(gpu.unified_memory for gpu in host.gpus),
    cost=NOTHING,
)
def ray_memory_monitor(host: HostFacts) -> Finding:
    """Ray's memory monitor is off on unified memory. There it takes the GPU's share for the process's own and
    kills the worker."""
    values = host.setting(RAY_MONITOR)
    if not values:
        return not_asked("no process of Ray is planned here")
    if values == ["0"]:
        return passed(None, "RAY_memory_monitor_refresh_ms=0")
    told = f"RAY_memory_monitor_refresh_ms={', '.join(values)}"
    cause = f"Ray's memory monitor is on at {host.name}: on unified memory it kills workers while weights load"
    return failed(None, told, cause=cause, fix="take RAY_memory_monitor_refresh_ms out of env, or set it to 0")


@check(
    "preflight.native_version",
    when=lambda host: host.several and host.is_head and host.engine.waits_for_hosts_since is not None,
    cost=NOTHING,
)
def native_version(host: HostFacts) -> Finding:
    """Without Ray: the engine waits for workers of other hosts."""
    since, version = host.engine.waits_for_hosts_since, version_of(host.plan.engine.version)
    if since is None or version is None:
        return not_asked("the plan does not know the engine's version")
    holds = f"{host.engine.title} {host.plan.engine.version}"
    if version >= Version(since):
        return passed(None, holds)
    cause = f"{holds} over several hosts gives up while a slow worker compiles; {since} waits"
    fix = f"an image with a newer {host.engine.title}, or --set engine=vllm-ray"
    return failed(None, holds, cause=cause, fix=fix)


def tp_over_nvlink_hosts(host: HostFacts) -> bool:
    """Whether a tensor-parallel group spans hosts whose NVLink does so too."""
    spans = host.plan.layout.tp > host.ranks
    return spans and any(gpu.kind.lower().startswith(MNNVL_KINDS) for gpu in host.gpus)


@check("preflight.all_reduce", when=tp_over_nvlink_hosts, cost=NOTHING)
def custom_all_reduce(host: HostFacts) -> Finding:
    """vLLM's own all-reduce is off where TP spans hosts of one NVLink domain. vLLM takes such hosts for one and
    opens CUDA IPC handles between them."""
    if host.plan.recipe.engine_args.get("disable_custom_all_reduce") is True:
        return passed(None, "disable_custom_all_reduce")
    cause = "TP spans hosts of one NVLink domain: vLLM's own all-reduce dies there with 'invalid resource handle'"
    fix = "--set disable_custom_all_reduce=true"
    return failed(None, "custom all-reduce is on", cause=cause, fix=fix)
