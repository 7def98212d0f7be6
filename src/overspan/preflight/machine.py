"""What a host has free: ports, memory, disk."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Final

from overspan.catalog import flags, models
from overspan.inventory import machine, probes
from overspan.inventory.fact import Capture, Fact, Seen
from overspan.preflight.site import Site, Verdict, bad, good, unknown
from overspan.schema.errors import ModelUnavailable
from overspan.schema.units import gib

SPARE_BYTES: Final = 2 * 2**30
"""Disk beside the model, for the run's logs and the engine's compile caches. A choice."""

ANY: Final = "0.0.0.0"  # noqa: S104 - what a rendezvous port binds to; nothing is opened here

PORT_SETTINGS: Final = {"api": "port"}
"""The setting that moves a port; the others stand in `schema.defaults` and move with nothing."""


def ports(site: Site) -> list[Verdict]:
    """Nobody listens on a port that the plan's processes on this host will take."""
    wanted = wanted_ports(site)
    seen, capture = site.look(probes.LISTENING)
    if seen.value is None:
        fix = site.paste("sudo", "apt-get", "install", "iproute2") if seen.absent else None
        return [unknown(capture, seen.why, fix=fix)]
    return [_port(site, name, port, seen.value, capture) for name, port in wanted.items()]


def wanted_ports(site: Site) -> dict[str, int]:
    """Ports by name that this host's processes take; 0 stands for any free one and is never taken."""
    found = {name: port for spec in site.specs for name, port in spec.ports.items()}
    if "api" in found:
        found["api"] = site.plan.recipe.port or found["api"]
    return {name: port for name, port in found.items() if port}


def _port(site: Site, name: str, port: int, listeners: list[probes.Listener], capture: Capture) -> Verdict:
    address = site.plan.recipe.host if name == "api" else ANY
    holder = probes.taken(listeners, port, address)
    if holder is None:
        return good(capture, f"{name} port {port} is free")
    who = f"{holder.process} (pid {holder.pid})" if holder.process else "a process of another user"
    told = f"{holder.address}:{holder.port} {who}"
    cause = f"{name} port {port} on {site.name} is taken by {who}"
    fix = f"--set {PORT_SETTINGS[name]}=PORT, or end it: " if name in PORT_SETTINGS else "end it: "
    end = site.paste("kill", str(holder.pid)) if holder.pid else site.paste("sudo", "ss", "-ltnp", f"sport = :{port}")
    return bad(capture, told, cause=cause, fix=fix + end)


def memory(site: Site) -> list[Verdict]:
    """The memory that the engine will claim is free now."""
    if not site.cuda:
        return [_processor_memory(site)]
    if any(gpu.unified_memory for gpu in site.gpus):
        return [_unified_memory(site)]
    return _gpu_memory(site)


def utilisation(site: Site) -> float:
    """The share of a GPU's memory that vLLM claims, and refuses to start without."""
    name = "gpu_memory_utilization"
    value = site.plan.recipe.engine_args.get(name)
    return float(value) if isinstance(value, (int, float)) else float(flags.VLLM.known[name]["default"])


def _unified_memory(site: Site) -> Verdict:
    seen, capture = site.look(machine.MEMINFO)
    if seen.value is None:
        return unknown(capture, seen.why)
    share, has = utilisation(site), seen.value
    needed, free = share * has.total_bytes, probes.really_free_bytes(has, unified=True)
    told = f"MemFree {gib(free)}, page cache {gib(has.cached_bytes)}, of {gib(has.total_bytes)}"
    if free >= needed:
        return good(capture, told)
    cause = f"vLLM claims {share:g} of {gib(has.total_bytes)} = {gib(needed)} on {site.name}, and {gib(free)} is free"
    if has.available_bytes >= needed:
        cause += f"; {gib(has.cached_bytes)} is page cache, which a GPU with unified memory is not given in time"
        return bad(capture, told, cause=cause, fix=site.paste("sudo", "sysctl", "-w", "vm.drop_caches=3"))
    return bad(capture, told, cause=cause + _holders(site), fix=_lower(site, has.available_bytes / has.total_bytes))


def _gpu_memory(site: Site) -> list[Verdict]:
    seen, capture = site.look(probes.GPU_LOAD)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    used = {load.index: load.memory_used_bytes for load in seen.value}
    share, verdicts = utilisation(site), []
    for gpu in site.gpus:
        taken = used.get(gpu.index)
        if taken is None:
            verdicts.append(unknown(capture, f"GPU {gpu.index} of {site.name} does not tell its used memory"))
            continue
        free, needed = gpu.memory_bytes - taken, share * gpu.memory_bytes
        told = f"GPU {gpu.index}: {gib(free)} of {gib(gpu.memory_bytes)} free"
        if free >= needed:
            verdicts.append(good(capture, told))
            continue
        cause = f"vLLM claims {share:g} of GPU {gpu.index} of {site.name} = {gib(needed)}, and {gib(free)} is free"
        fix = _lower(site, free / gpu.memory_bytes)
        verdicts.append(bad(capture, told, cause=cause + _holders(site), fix=fix))
    return verdicts


def _holders(site: Site) -> str:
    """Who holds the GPU's memory, where the driver tells."""
    processes = site.look(probes.GPU_PROCESSES)[0].value or []
    told = [
        f"{one.name} (pid {one.pid}{f', {gib(one.memory_bytes)}' if one.memory_bytes else ''})" for one in processes
    ]
    return f"; held by {', '.join(told)}" if told else ""


def _lower(site: Site, share: float) -> str:
    end = f"end what holds it ({site.paste('nvidia-smi')})"
    possible = math.floor(share * 100) / 100
    return f"{end}, or --set gpu_memory_utilization={possible:g}" if possible > 0 else end


def _processor_memory(site: Site) -> Verdict:
    seen, capture = site.look(machine.MEMINFO)
    if seen.value is None:
        return unknown(capture, seen.why)
    free = probes.really_free_bytes(seen.value, unified=False)
    told = f"MemAvailable {gib(free)} of {gib(seen.value.total_bytes)}"
    needed = _processor_needs(site)
    if needed is None:
        return unknown(capture, f"{told}; what the model needs is not known: its sizes are not at hand")
    if free >= needed:
        return good(capture, f"{told}; needed {gib(needed)}")
    cause = f"the plan needs {gib(needed)} on {site.name}, and {gib(free)} can be had"
    return bad(capture, told, cause=cause, fix=site.paste("ps", "-eo", "pid,rss,args", "--sort=-rss"))


def _processor_needs(site: Site) -> float | None:
    """Weights once over the ranks, and each rank's KV cache, as the engine's environment sizes it (GiB)."""
    size = model_bytes(site)
    if size is None:
        return None
    caches = [float(spec.env.get("VLLM_CPU_KVCACHE_SPACE", 0)) * 2**30 for spec in site.specs]
    return size * site.ranks / site.plan.layout.world_size + sum(caches)


def model_bytes(site: Site) -> int | None:
    """The model's weights on disk, where its sizes are at hand."""
    try:
        found = models.lookup(site.plan.model_path or site.plan.recipe.model)
    except ModelUnavailable:
        return None
    return found.weight_bytes if found else None


def model_folder(site: Site) -> str | None:
    """Where the model lies on every host, if the plan says so."""
    plan = site.plan
    folder = plan.model_path or plan.inventory.models.get(plan.recipe.model, plan.recipe.model)
    return folder if folder.startswith("/") else None


def disk(site: Site) -> list[Verdict]:
    """There is room for the model where it is missing, and for logs and caches."""
    seen, capture = _free(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    there, size = has_model(site), model_bytes(site)
    told = f"{gib(seen.value.free_bytes)} of {gib(seen.value.total_bytes)} free on {seen.value.mount}"
    needed = SPARE_BYTES + (0 if there else size or 0)
    if seen.value.free_bytes < needed:
        what = "logs and caches" if there else f"the model ({gib(size or 0)}), logs and caches"
        cause = f"{site.name} has {told}; {what} need {gib(needed)}"
        return [bad(capture, told, cause=cause, fix=site.paste("du", "-xh", "--max-depth=2", seen.value.mount))]
    if not there and size is None:
        return [unknown(capture, f"{told}; whether the model fits is not known: its sizes are not at hand")]
    return [good(capture, told)]


def _free(site: Site) -> tuple[Seen[machine.Disk], Capture]:
    """Asked where models go; in the home folder when that folder is not there yet."""
    folder = model_folder(site)
    for path in (site.host.model_cache, str(PurePosixPath(folder).parent) if folder else None):
        if path:
            seen, capture = site.look(probes.disk(path))
            if seen.value is not None:
                return seen, capture
    return site.look(probes.disk(str(Path.home()) if site.host.ssh is None else "."))


def has_model(site: Site) -> bool:
    """Whether the model lies on this host, in its folder or in its cache."""
    folder = model_folder(site)
    if folder is None and site.host.model_cache:
        folder = f"{site.host.model_cache}/hub/models--{site.plan.recipe.model.replace('/', '--')}"
    if folder is None:
        return False
    return site.look(Fact("model", ["ls", "-d", "--", folder], str.strip))[0].value is not None
