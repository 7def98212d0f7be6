"""What a host has free (ports, memory, disk), what its clock says, and whether it keeps shared memory."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.version import Version

from overspan.catalog import flags, models
from overspan.inventory import gpus, machine, probes
from overspan.inventory.fact import Capture, Fact, Seen, Unreadable
from overspan.preflight.facts import OVER_HOSTS, HostFacts, check, failed, group_check, passed, side_by_side, unreadable
from overspan.provision.models import is_folder
from overspan.schema.errors import ModelUnavailable
from overspan.schema.finding import Finding
from overspan.schema.units import gib
from overspan.schema.versions import version_of

SPARE_BYTES: Final = 2 * 2**30
"""Disk beside the model, for the run's logs and the engine's compile caches. A choice."""

COUNTS_CACHE: Final = Version("0.32")

ANY: Final = "0.0.0.0"  # noqa: S104 - what a rendezvous port binds to; nothing is opened here

PORT_SETTINGS: Final = {"api": "port"}
"""The setting that moves a port; the others stand in `schema.defaults` and move with nothing."""

SKEW_S: Final = 30.0
"""Clocks further apart make certificates, tokens and the order of events in logs wrong. A choice."""

SYSTEM_USERS: Final = 1000
"""Below it are root and system users, whose shared memory logind leaves alone. Source: logind.conf(5), login.defs."""


@check("preflight.port", when=lambda host: bool(wanted_ports(host)))
def ports(host: HostFacts) -> Iterator[Finding]:
    """The ports are free."""
    seen, capture = host.look(probes.LISTENING)
    if seen.value is None:
        fix = host.paste("sudo", "apt-get", "install", "iproute2") if seen.absent else None
        yield unreadable(capture, seen.why, fix=fix)
        return
    for port, name in wanted_ports(host).items():
        yield _port(host, name, port, seen.value, capture)


def wanted_ports(host: HostFacts) -> dict[int, str]:
    """Ports that this host's processes take, with their names; 0 stands for any free one and is never taken."""
    seen_from_here, own = host.plan.endpoint.port, host.plan.recipe.port
    found = [(name, port) for spec in host.specs for name, port in spec.ports.items()]
    # A tunnel's end on this machine is another port than the endpoint's own.
    return {(own or port) if port == seen_from_here else port: name for name, port in found if port}


def _port(host: HostFacts, name: str, port: int, listeners: list[probes.Listener], capture: Capture) -> Finding:
    address = host.plan.recipe.host if name == "api" else ANY
    holder = probes.taken(listeners, port, address)
    if holder is None:
        return passed(capture, f"{name} port {port} is free")
    who = f"{holder.process} (pid {holder.pid})" if holder.process else "a process of another user"
    told = f"{holder.address}:{holder.port} {who}"
    cause = f"{name} port {port} on {host.name} is taken by {who}"
    fix = f"--set {PORT_SETTINGS[name]}=PORT, or end it: " if name in PORT_SETTINGS else "end it: "
    end = host.paste("kill", str(holder.pid)) if holder.pid else host.paste("sudo", "ss", "-ltnp", f"sport = :{port}")
    return failed(capture, told, cause=cause, fix=fix + end)


@check("preflight.memory", cost="one to three commands")
def memory(host: HostFacts) -> Finding | Iterable[Finding]:
    """The memory that the engine claims is free."""
    if not host.cuda:
        return _processor_memory(host)
    return _unified_memory(host) if any(gpu.unified_memory for gpu in host.gpus) else _gpu_memory(host)


def utilisation(host: HostFacts) -> float:
    """The share of a GPU's memory that vLLM claims, and refuses to start without."""
    name = "gpu_memory_utilization"
    value = host.plan.recipe.engine_args.get(name)
    return float(value) if isinstance(value, (int, float)) else float(flags.VLLM.known[name]["default"])


def _unified_memory(host: HostFacts) -> Finding:
    has, capture = host.read(machine.MEMINFO)
    share = utilisation(host)
    needed, free = share * has.total_bytes, probes.really_free_bytes(has, unified=True)
    told = f"MemFree {gib(free)}, page cache {gib(has.cached_bytes)}, of {gib(has.total_bytes)}"
    if free >= needed:
        return passed(capture, told)
    cause = f"vLLM claims {share:g} of {gib(has.total_bytes)} = {gib(needed)} on {host.name}, and {gib(free)} is free"
    if has.available_bytes >= needed:
        cause += f"; {gib(has.cached_bytes)} is page cache, which a GPU with unified memory is not given in time"
        fix = host.paste("sudo", "sysctl", "-w", "vm.drop_caches=3")
        return failed(capture, told, cause=cause, fix=fix, severity="warning" if _counts_cache(host) else "error")
    return failed(capture, told, cause=cause + _holders(host), fix=_lower(host, has.available_bytes / has.total_bytes))


def _counts_cache(host: HostFacts) -> bool:
    """Whether the engine takes page cache for free at its start: vLLM 0.32 does (vllm/utils/mem_utils.py,
    MemorySnapshot). Of an image the version may be a guess."""
    version = version_of(host.plan.engine.version)
    return host.engine_is_here and version is not None and version >= COUNTS_CACHE


def _gpu_memory(host: HostFacts) -> Iterator[Finding]:
    loads, capture = host.read(gpus.GPU_LOAD)
    used = {load.index: load.memory_used_bytes for load in loads}
    share = utilisation(host)
    for gpu in host.gpus:
        taken = used.get(gpu.index)
        if taken is None:
            yield unreadable(capture, f"GPU {gpu.index} of {host.name} does not tell its used memory")
            continue
        free, needed = gpu.size_bytes - taken, share * gpu.size_bytes
        told = f"GPU {gpu.index}: {gib(free)} of {gib(gpu.size_bytes)} free"
        if free >= needed:
            yield passed(capture, told)
            continue
        cause = f"vLLM claims {share:g} of GPU {gpu.index} of {host.name} = {gib(needed)}, and {gib(free)} is free"
        fix = _lower(host, free / gpu.size_bytes)
        yield failed(capture, told, cause=cause + _holders(host), fix=fix)


def _holders(host: HostFacts) -> str:
    """Who holds the GPU's memory, where the driver tells."""
    processes = host.look(gpus.GPU_PROCESSES)[0].value or []
    told = [
        f"{one.name} (pid {one.pid}{f', {gib(one.memory_bytes)}' if one.memory_bytes else ''})" for one in processes
    ]
    return f"; held by {', '.join(told)}" if told else ""


def _lower(host: HostFacts, share: float) -> str:
    end = f"end what holds it ({host.paste('nvidia-smi')})"
    possible = math.floor(share * 100) / 100
    return f"{end}, or --set gpu_memory_utilization={possible:g}" if possible > 0 else end


def _processor_memory(host: HostFacts) -> Finding:
    seen, capture = host.read(machine.MEMINFO)
    free = probes.really_free_bytes(seen, unified=False)
    told = f"MemAvailable {gib(free)} of {gib(seen.total_bytes)}"
    needed = _processor_needs(host)
    if needed is None:
        return unreadable(capture, f"{told}; what the model needs is not known: Overspan does not know its sizes")
    if free >= needed:
        return passed(capture, f"{told}; needed {gib(needed)}")
    cause = f"the plan needs {gib(needed)} on {host.name}, and {gib(free)} can be had"
    return failed(capture, told, cause=cause, fix=host.paste("ps", "-eo", "pid,rss,args", "--sort=-rss"))


def _processor_needs(host: HostFacts) -> float | None:
    """Weights once over the ranks, and each rank's KV cache, as the engine's environment sizes it (GiB)."""
    size = model_bytes(host)
    if size is None:
        return None
    caches = [float(spec.env.get("VLLM_CPU_KVCACHE_SPACE", 0)) * 2**30 for spec in host.specs]
    return size * host.ranks / host.plan.layout.world_size + sum(caches)


def model_bytes(host: HostFacts) -> int | None:
    """The model's weights on disk, where its sizes are at hand."""
    try:
        found = models.lookup(host.plan.model_path or host.plan.recipe.model)
    except ModelUnavailable:
        return None
    return found.weight_bytes if found else None


def model_folder(host: HostFacts) -> str | None:
    """Where the model lies on every host, if the plan says so."""
    plan = host.plan
    folder = plan.model_path or plan.inventory.models.get(plan.recipe.model, plan.recipe.model)
    if host.is_here and plan.recipe.package is None and is_folder(folder):
        return str(Path(folder).expanduser().absolute())
    return folder if folder.startswith("/") else None


@check("preflight.disk", cost="one to three commands")
def disk(host: HostFacts) -> Finding:
    """The disk has room."""
    seen, capture = _free(host)
    if seen.value is None:
        return unreadable(capture, seen.why)
    there, size = has_model(host), model_bytes(host)
    told = f"{gib(seen.value.free_bytes)} of {gib(seen.value.total_bytes)} free on {seen.value.mount}"
    needed = SPARE_BYTES + (0 if there else size or 0)
    if seen.value.free_bytes < needed:
        what = "logs and caches" if there else f"the model ({gib(size or 0)}), logs and caches"
        cause = f"{host.name} has {told}; {what} need {gib(needed)}"
        return failed(capture, told, cause=cause, fix=host.paste("du", "-xh", "--max-depth=2", seen.value.mount))
    if not there and size is None:
        return unreadable(capture, f"{told}; whether the model fits is not known: Overspan does not know its sizes")
    return passed(capture, told)


def _free(host: HostFacts) -> tuple[Seen[machine.Disk], Capture]:
    """Asked where models go; in the home folder when that folder is not there yet."""
    folder = model_folder(host)
    for path in (host.entry.model_cache, str(PurePosixPath(folder).parent) if folder else None):
        if path:
            seen, capture = host.look(probes.disk(path))
            if seen.value is not None:
                return seen, capture
    return host.look(probes.disk(str(Path.home()) if host.entry.ssh is None else "."))


def has_model(host: HostFacts) -> bool:
    """Whether the model lies on this host, in its folder or in its cache."""
    folder = model_folder(host)
    if folder is None and host.entry.model_cache:
        folder = f"{host.entry.model_cache}/hub/models--{host.plan.recipe.model.replace('/', '--')}"
    if folder is None:
        return False
    return host.look(Fact("model", ["ls", "-d", "--", folder], str.strip))[0].value is not None


@group_check("preflight.clock", when=OVER_HOSTS)
def clocks(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """The hosts' clocks agree."""
    asked = side_by_side(hosts, _ahead_s)
    offsets = sorted(ahead for _, (ahead, _, _) in asked if ahead is not None)
    for host, (ahead, why, capture) in asked:
        if ahead is None:
            yield host.name, unreadable(capture, why)
            continue
        apart = abs(ahead - offsets[len(offsets) // 2])
        cause = f"the clock of {host.name} is {apart:.0f} s from the others'"
        fix = host.paste("sudo", "timedatectl", "set-ntp", "true")
        agrees = passed(capture, "the clock agrees with the others")
        wrong = failed(capture, cause, cause=cause, fix=fix, severity="warning")
        yield host.name, agrees if apart <= SKEW_S else wrong


def _ahead_s(host: HostFacts) -> tuple[float | None, str, Capture]:
    """Seconds by which a host's clock is ahead of this machine's, or why that is not known."""
    before = time.time()
    seen, capture = host.look(Fact("clock", ["date", "+%s"], _number))
    return None if seen.value is None else seen.value - (before + time.time()) / 2, seen.why, capture


def _number(text: str) -> float:
    if not text.strip().isdigit():
        raise Unreadable(text.strip()[:80])
    return float(text)


@check("preflight.removeipc", when=lambda host: not host.docker and host.entry.ssh is not None)
def keeps_ipc(host: HostFacts) -> Finding:
    """Without containers, over ssh: shared memory outlives the session. systemd removes that of a user whose
    last session ends, and processes lose it while they run."""
    user, capture = host.look(Fact("uid", ["id", "-u"], _number))
    if user.value is not None and user.value < SYSTEM_USERS:
        return passed(capture, "a system user keeps its shared memory")
    places = ["/etc/systemd/logind.conf", "/etc/systemd/logind.conf.d"]
    seen, capture = host.look(Fact("removeipc", ["grep", "-rihs", "^RemoveIPC", *places], str.split))
    if seen.value and seen.value[-1].lower() in {"removeipc=no", "removeipc=false", "removeipc=0"}:
        return passed(capture, seen.value[-1])
    if capture.missing is not None:
        return unreadable(capture, capture.missing)
    cause = f"logind of {host.name} removes shared memory when its user's last session ends: NCCL and torch lose it"
    fix = host.paste(
        "sudo", "sh", "-c", "echo RemoveIPC=no >> /etc/systemd/logind.conf; systemctl restart systemd-logind"
    )
    return failed(capture, "RemoveIPC is not no", cause=cause, fix=fix, severity="warning")
