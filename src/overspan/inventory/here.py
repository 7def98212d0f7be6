"""This machine, at once: from sysfs, psutil and NVIDIA's library, without starting a process."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import psutil

from overspan.inventory.fact import Unreadable
from overspan.inventory.host import kind_of
from overspan.inventory.machine import computes_bf16, parse_os_release
from overspan.schema.inventory import Gpu, Host, Inventory

CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""Memory that this container may use; `max` outside of one. Source: kernel.org, cgroup-v2."""

DRIVER_SIGNS: Final = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))
"""Either is there where NVIDIA's driver is loaded, in a container too; without it the library is not sought."""


def this_machine() -> Inventory:
    """An inventory of this machine alone, for a run that names no other. Takes a fraction of a second.

    Network and containers are not looked at: one host needs neither. `overspan detect` looks at them.
    """
    memory_bytes = _memory_bytes()
    gpus = _gpus(memory_bytes)
    host = Host(
        name="localhost",
        arch=platform.machine(),
        os=_os_name(),
        kernel=platform.release(),
        cpu_model=next(iter(_cpu_lines("model name")), ""),
        cores=_cores(),
        cpu_bf16=computes_bf16(_cpu_lines("flags", "Features")),
        memory_bytes=memory_bytes,
        gpus=gpus,
        disk_free_bytes=psutil.disk_usage(str(Path.home())).free,
    )
    return Inventory(name="this-machine", source="this machine", device="cuda" if gpus else "cpu", hosts=[host])


def _memory_bytes() -> int:
    total: int = psutil.virtual_memory().total
    try:
        limit = CGROUP_LIMIT.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() and int(limit) > 0 else total


def _cores() -> int:
    """Physical cores, no more than this process may run on."""
    return max(1, min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0))))


def _os_name() -> str:
    try:
        return parse_os_release(Path("/etc/os-release").read_text(encoding="utf-8", errors="replace"))
    except (OSError, Unreadable):
        return platform.system()


def _cpu_lines(*names: str) -> list[str]:
    """What /proc/cpuinfo says under these names, each different value once. Arm names no model there."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = (line.partition(":") for line in lines)
    return list(dict.fromkeys(value.strip() for name, _, value in rows if name.strip() in names))


def has_driver() -> bool:
    """Whether NVIDIA's driver is loaded on this machine."""
    return any(sign.exists() for sign in DRIVER_SIGNS)


def _gpus(host_memory_bytes: int) -> list[Gpu]:
    """GPUs as NVIDIA's library tells them; none where there is no driver."""
    if not has_driver():
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(index, host_memory_bytes) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: int, host_memory_bytes: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = str(pynvml.nvmlDeviceGetName(handle))
    try:
        memory_bytes, unified = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), False
    except pynvml.NVMLError_NotSupported:  # GB10: the GPU has no memory of its own
        memory_bytes, unified = host_memory_bytes, True
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        index=index,
        kind=kind_of(name),
        name=name,
        memory_bytes=memory_bytes,
        unified_memory=unified,
        driver=str(pynvml.nvmlSystemGetDriverVersion()),
        compute_capability=f"{major}.{minor}",
    )
