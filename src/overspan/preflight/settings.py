"""What the plan itself says wrongly, once the user's own environment and arguments have had the last word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overspan.catalog.flags import version_of
from overspan.preflight.site import Site, Verdict, untold

RAY_MONITOR: Final = "RAY_memory_monitor_refresh_ms"

MNNVL_KINDS: Final = ("gb200", "gb300")
"""GPUs whose NVLink goes over hosts. Source: docs.nvidia.com, GB200 and GB300 NVL72."""


def _good(text: str) -> Verdict:
    return Verdict("passed", text, severity="info")


def own_addresses(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """VLLM_HOST_IP is each host's own: one value in a shared environment makes vLLM count too few nodes."""
    values = {site.name: site.setting("VLLM_HOST_IP") for site in sites}
    verdicts = []
    for site in sites:
        mine = values[site.name]
        alike = [name for name, other in values.items() if name != site.name and set(mine) & set(other)]
        told = ", ".join(mine) or "VLLM_HOST_IP is not set"
        if not alike:
            verdicts.append((site.name, _good(told)))
            continue
        cause = f"{site.name} and {', '.join(alike)} have one VLLM_HOST_IP, {mine[0]}: vLLM would count one node"
        fix = "take VLLM_HOST_IP out of env: each host has its own fabric address by itself"
        verdicts.append((site.name, Verdict("failed", told, None, cause, fix)))
    return verdicts


def ray_memory_monitor(site: Site) -> list[Verdict]:
    """On unified memory Ray's memory monitor takes the GPU's share for the process's own and kills the worker."""
    values = site.setting(RAY_MONITOR)
    if not values:
        return [untold("no process of Ray is planned here")]
    if values == ["0"]:
        return [_good("RAY_memory_monitor_refresh_ms=0")]
    told = f"RAY_memory_monitor_refresh_ms={', '.join(values)}"
    cause = f"Ray's memory monitor is on at {site.name}: on unified memory it kills workers while weights load"
    return [Verdict("failed", told, None, cause, "take RAY_memory_monitor_refresh_ms out of env, or set it to 0")]


def native_version(site: Site) -> list[Verdict]:
    """The engine is new enough to run over several hosts without Ray."""
    since, version = site.engine.waits_for_hosts_since, version_of(site.plan.engine.version)
    if since is None or version is None:
        return [untold("the plan does not know the engine's version")]
    holds = f"{site.engine.title} {site.plan.engine.version}"
    if version >= since:
        return [_good(holds)]
    cause = f"{holds} over several hosts gives up while a slow worker compiles; {'.'.join(map(str, since))} waits"
    fix = f"an image with a newer {site.engine.title}, or --set engine=vllm-ray"
    return [Verdict("failed", holds, None, cause, fix)]


def tp_over_nvlink_hosts(site: Site) -> bool:
    """Whether a tensor-parallel group spans hosts whose NVLink does so too."""
    spans = site.plan.layout.tp > site.ranks
    return spans and any(gpu.kind.lower().startswith(MNNVL_KINDS) for gpu in site.gpus)


def custom_all_reduce(site: Site) -> list[Verdict]:
    """vLLM takes hosts that share NVLink for one and opens CUDA IPC handles between them."""
    if site.plan.recipe.engine_args.get("disable_custom_all_reduce") is True:
        return [_good("disable_custom_all_reduce")]
    cause = "TP spans hosts of one NVLink domain: vLLM's own all-reduce dies there with 'invalid resource handle'"
    fix = "--set disable_custom_all_reduce=true"
    return [Verdict("failed", "custom all-reduce is on", None, cause, fix)]
