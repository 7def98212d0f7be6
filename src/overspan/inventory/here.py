"""This machine, at once: from sysfs, psutil and NVIDIA's library, without starting a process."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import psutil

from overspan.inventory import gpus
from overspan.inventory.fact import Unreadable
from overspan.inventory.host import gpu_of, has_gpus, told_mig
from overspan.inventory.machine import computes_bf16, parse_os_release
from overspan.schema.inventory import DeviceKind, Gpu, Host, Inventory

CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
"""Memory that this container may use; `max` outside of one. Source: kernel.org, cgroup-v2."""

DRIVER_SIGNS: Final = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))
"""Either is there where NVIDIA's driver is loaded, in a container too; without it the library is not sought."""

PCI: Final = Path("/sys/bus/pci/devices")
NVIDIA: Final = 0x10DE
"""NVIDIA's number of a PCI vendor. Source: pci-ids.ucw.cz."""


def this_machine() -> Inventory:
    """An inventory of this machine alone, for a run that names no other. Takes a fraction of a second.

    Network and containers are not looked at: one host needs neither. `overspan detect` looks at them.
    """
    memory_bytes = _memory_bytes()
    found, unknown = _gpus(memory_bytes)
    host = Host(
        name="localhost",
        arch=platform.machine(),
        os=_os_name(),
        kernel=platform.release(),
        cpu_model=next(iter(_cpu_lines("model name")), ""),
        cores=_cores(),
        cpu_bf16=computes_bf16(_cpu_lines("flags", "Features")),
        memory_bytes=memory_bytes,
        gpus=found,
        disk_free_bytes=psutil.disk_usage(str(Path.home())).free,
        unknown=unknown,
    )
    device: DeviceKind = "cuda" if has_gpus(host) else "cpu"
    return Inventory(name="this-machine", source="this machine", device=device, hosts=[host])


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


def _on_pci() -> list[str]:
    """NVIDIA's GPUs on PCI, which the kernel shows also without a driver."""
    lines = []
    for event in PCI.glob("*/uevent"):
        try:
            lines += [f"/sys/bus/pci/devices/{event.parent.name}/uevent:{line}" for line in event.read_text().split()]
        except (OSError, UnicodeDecodeError):
            continue
    return gpus.parse_gpu_signs("\n".join(lines))


def _gpus(host_memory_bytes: int) -> tuple[list[Gpu], dict[str, str]]:
    """GPUs as NVIDIA's library tells them, and what it does not tell. None are unknown where the kernel shows some."""
    signs = _on_pci()
    if not has_driver():
        shown = f"no NVIDIA driver is loaded, and the kernel shows {', '.join(signs[:8])}"
        return [], {"gpus": shown} if signs else {}
    import pynvml

    found: list[Gpu] = []
    unknown: dict[str, str] = {}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], {"gpus": f"NVIDIA's driver is loaded and does not answer: {error}"}
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                found.append(_gpu(index, host_memory_bytes, unknown))
            except pynvml.NVMLError as error:
                unknown[f"GPU {index}"] = f"{error}; it is left out"
    except pynvml.NVMLError as error:
        unknown["gpus"] = str(error)
    finally:
        pynvml.nvmlShutdown()
    if not found and (signs or unknown):
        unknown.setdefault("gpus", f"NVIDIA's driver names none that can be used{'; the kernel shows ' * bool(signs)}"
                                   f"{', '.join(signs[:8])}")  # fmt: skip
    return [gpu for gpu in found if gpu.mig != []], unknown


def _gpu(index: int, host_memory_bytes: int, unknown: dict[str, str]) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = str(pynvml.nvmlDeviceGetName(handle))
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    row = gpus.GpuRow(index, name, driver=driver, compute_capability=f"{major}.{minor}")
    try:
        row = replace(row, memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
    except pynvml.NVMLError as error:  # GB10: the GPU has no memory of its own
        row = replace(row, unified=gpus.is_integrated(name, row.compute_capability))
        if not row.unified:
            unknown[f"memory of GPU {index}"] = str(error)
    more, instances = gpus.GpuMore(index, _pci(handle), None), None
    try:
        more = replace(more, mig=pynvml.nvmlDeviceGetMigMode(handle)[0] == 1)
        instances = _instances(handle) if more.mig else None
    except pynvml.NVMLError:  # most kinds have no MIG mode
        pass
    gpu = gpu_of(row, more, instances, host_memory_bytes)
    if gpu.mig is not None:
        unknown[f"GPU {index}"] = told_mig(gpu)
    return gpu


def _instances(handle: Any) -> list[str]:
    """The profiles of a GPU's MIG instances: `NVIDIA H100 80GB HBM3 MIG 1g.10gb` is `1g.10gb`."""
    import pynvml

    found = []
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            name = str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)))
        except pynvml.NVMLError:
            continue
        found.append(name.rpartition("MIG ")[2])
    return found


def _pci(handle: Any) -> str | None:
    import pynvml

    try:
        whole = int(pynvml.nvmlDeviceGetPciInfo(handle).pciDeviceId)
    except pynvml.NVMLError:
        return None
    return f"{whole >> 16:04x}" if whole & 0xFFFF == NVIDIA else None
