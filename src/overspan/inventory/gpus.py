"""What nvidia-smi tells of a host's GPUs: which there are, how busy they are, who holds their memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from overspan.inventory.fact import Fact, Unreadable

GPU_FIELDS: Final = ("index", "name", "memory.total", "driver_version", "compute_cap")
GPU_MORE_FIELDS: Final = ("index", "pci.device_id", "mig.mode.current")
GPU_LOAD_FIELDS: Final = ("index", "utilization.gpu", "power.draw", "memory.used", "temperature.gpu")
NOT_TOLD: Final = frozenset({"[N/A]", "N/A", "[Not Supported]", "Not Supported"})
"""What nvidia-smi prints for memory that is not the GPU's own. Source: docs.nvidia.com, DGX Spark, known issues."""

_GONE: Final = re.compile(
    r"\[?(GPU is lost|GPU requires reset)\]?|Unable to determine the device handle for GPU", re.IGNORECASE
)
"""A GPU that cannot be used until it, or the host, is reset. Source: nvml.h, NVML_ERROR_GPU_IS_LOST and others."""

_INTEGRATED: Final = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra|Jetson|nvgpu)\b", re.IGNORECASE)
_INTEGRATED_CAPABILITIES: Final = frozenset({"5.3", "6.2", "7.2", "8.7", "10.1", "11.0", "12.1"})
"""Chips whose GPU uses the machine's own memory: Jetsons and GB10. Source: developer.nvidia.com/cuda-gpus."""


@dataclass(frozen=True)
class GpuRow:
    """A GPU. `memory_bytes` is none where it shares the machine's memory (`unified`), or where it is not told.

    `unread`: cells that hold an error, by their field. `gone`: the line that says that the GPU cannot be used at all.
    """

    index: int | None
    name: str = ""
    memory_bytes: int | None = None
    driver: str | None = None
    compute_capability: str | None = None
    unified: bool = False
    unread: dict[str, str] = field(default_factory=dict)
    gone: str = ""


@dataclass(frozen=True)
class GpuMore:
    """A GPU's PCI device id, four hexadecimal digits, and whether its MIG mode is on; none where it is not told."""

    index: int
    pci: str | None
    mig: bool | None


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU; the driver does not always tell how much."""

    pid: int
    name: str
    memory_bytes: int | None


@dataclass(frozen=True)
class GpuLoad:
    """How busy a GPU is; a value that the GPU does not tell is none."""

    index: int
    utilization: float | None
    power_w: float | None
    memory_used_bytes: int | None
    temperature_c: float | None


def parse_nvidia_smi(text: str) -> list[GpuRow]:
    """The fields of GPU_FIELDS; memory is in MiB. A cell that holds an error costs that cell, a lost GPU that GPU."""
    rows = []
    for line in _lines(text):
        cells = [cell.strip() for cell in line.split(",")]
        known = len(cells) == len(GPU_FIELDS) and cells[0].isdigit()
        if lost := _GONE.search(line):
            index = int(cells[0]) if known else None
            rows.append(GpuRow(index, cells[1] if known else "", gone=lost[0].strip("[]") if known else line.strip()))
        elif known:
            rows.append(_row(cells))
        else:
            raise Unreadable(line.strip()[:200])
    return rows


def _row(cells: list[str]) -> GpuRow:
    index, name, memory, driver, capability = cells
    held = capability if re.fullmatch(r"\d+\.\d+", capability) else None
    told = {"name": name, "memory": memory, "driver": driver, "compute capability": capability}
    unread = {what: cell for what, cell in told.items() if re.fullmatch(r"\[.*\]", cell) and cell not in NOT_TOLD}
    amount = _mebibytes(memory) or None
    unified = memory in NOT_TOLD and is_integrated(name, held)
    if amount is None and not unified:
        unread["memory"] = memory or "nothing"
    return GpuRow(
        index=int(index),
        name="" if "name" in unread else name,
        memory_bytes=amount,
        driver=driver if driver[:1].isdigit() else None,
        compute_capability=held,
        unified=unified,
        unread=unread,
    )


def is_integrated(name: str, capability: str | None) -> bool:
    """Whether a GPU is of a chip that has no memory for its GPU alone."""
    return capability in _INTEGRATED_CAPABILITIES or _INTEGRATED.search(name) is not None


def parse_gpu_more(text: str) -> list[GpuMore]:
    """The fields of GPU_MORE_FIELDS: `0, 0x2BB110DE, Enabled`."""
    return [
        GpuMore(int(index), _pci(device), {"enabled": True, "disabled": False}.get(mig.lower()))
        for index, device, mig in _cells(text, len(GPU_MORE_FIELDS))
    ]


def _pci(text: str) -> str | None:
    """`0x2BB110DE`: the device's id, then NVIDIA's."""
    found = re.fullmatch(r"0x([0-9A-Fa-f]{4})10DE", text, re.IGNORECASE)
    return found[1].lower() if found else None


def parse_gpu_list(text: str) -> dict[int, list[str]]:
    """`nvidia-smi -L`: the MIG instances of each GPU, by their profiles: `  MIG 1g.10gb  Device  0: (UUID: ...)`."""
    found: dict[int, list[str]] = {}
    index = None
    for line in text.splitlines():
        if gpu := re.match(r"GPU (\d+):", line):
            index = int(gpu[1])
            found[index] = []
        elif (instance := re.match(r"\s+MIG (\S+)\s+Device", line)) and index is not None:
            found[index].append(instance[1])
    return found


def parse_gpu_signs(text: str) -> list[str]:
    """What the kernel shows of NVIDIA's GPUs: `0000:01:00.0 (10de:2bb1)`, `/dev/nvidia0`.

    Of PCI devices those of the classes 0300 (VGA) and 0302 (3D controller) are GPUs. Source: pci-ids.ucw.cz, class 03.
    """
    classes: dict[str, str] = {}
    ids: dict[str, str] = {}
    signs = []
    for line in text.splitlines():
        if found := re.fullmatch(r"/sys/bus/pci/devices/([^/]+)/uevent:PCI_(CLASS|ID)=(\S+)", line.strip()):
            (classes if found[2] == "CLASS" else ids)[found[1]] = found[3].lower()
        elif line.startswith(("/dev/nvidia", "/proc/driver/nvidia/gpus/")):
            signs.append(line.strip())
    gpus = [place for place, held in classes.items() if held.zfill(6)[:4] in {"0300", "0302"}]
    return [f"PCI {place} ({ids[place]})" for place in gpus if ids.get(place, "").startswith("10de:")] + signs


def parse_gpu_load(text: str) -> list[GpuLoad]:
    """The fields of GPU_LOAD_FIELDS; `[N/A]` where the GPU does not tell."""
    return [
        GpuLoad(int(index), None if (share := _number(busy)) is None else share / 100, _number(power),
                _mebibytes(memory), _number(temperature))
        for index, busy, power, memory, temperature in _cells(text, len(GPU_LOAD_FIELDS))
    ]  # fmt: skip


def parse_compute_apps(text: str) -> list[GpuProcess]:
    """`pid, process_name, used_gpu_memory` in MiB; a name may hold commas."""
    processes = []
    for line in text.strip().splitlines():
        found = re.fullmatch(r"\s*(\d+)\s*,\s*(\S.*?)\s*,\s*([^,]*?)\s*", line)
        if found is None:
            raise Unreadable(line.strip()[:120])
        processes.append(GpuProcess(int(found[1]), found[2], _mebibytes(found[3])))
    return processes


def _lines(text: str) -> list[str]:
    """Lines that are of a GPU."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return [line for line in lines if line.strip() != "No devices were found"]


def _cells(text: str, count: int) -> list[list[str]]:
    """The cells of each line, of which the first is a GPU's number. A GPU that is lost is left out."""
    rows = [[cell.strip() for cell in line.split(",")] for line in _lines(text) if not _GONE.match(line.strip())]
    for row in rows:
        if len(row) != count or not row[0].isdigit():
            raise Unreadable(",".join(row)[:200])
    return rows


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _mebibytes(text: str) -> int | None:
    amount = _number(text)
    return None if amount is None else int(amount * 2**20)


def _query(what: str, fields: Sequence[str]) -> list[str]:
    return ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader,nounits"]


NVIDIA_SMI: Final = Fact("nvidia_smi", _query("gpu", GPU_FIELDS), parse_nvidia_smi)
GPU_MORE: Final = Fact("gpu_more", _query("gpu", GPU_MORE_FIELDS), parse_gpu_more)
GPU_LIST: Final = Fact("gpu_list", ["nvidia-smi", "-L"], parse_gpu_list)
GPU_LOAD: Final = Fact("gpu_load", _query("gpu", GPU_LOAD_FIELDS), parse_gpu_load)
GPU_PROCESSES: Final = Fact(
    "gpu_processes", _query("compute-apps", ("pid", "process_name", "used_memory")), parse_compute_apps
)


def gpu_signs_argv(pci: str = "/sys/bus/pci/devices", proc: str = "/proc/driver/nvidia/gpus") -> list[str]:
    """One `find` over PCI's devices, the driver's list of GPUs and /dev. PCI's devices are links: `-L`."""
    return ["find", "-L", pci, proc, "/dev", "-maxdepth", "2",
            "(", "-path", "/dev/*/*", "-o", "-path", f"{pci}/*/*", "!", "-name", "uevent", ")", "-prune",
            "-o", "-path", f"{pci}/*/uevent", "-exec", "grep", "-sHE", "^PCI_(CLASS|ID)=", "{}", "+",
            "-o", "-path", f"{proc}/*/*", "-prune", "-o", "-path", f"{proc}/*", "-print",
            "-o", "-path", "/dev/nvidia[0-9]*", "-print"]  # fmt: skip


GPU_SIGNS: Final = Fact("gpu_signs", gpu_signs_argv(), parse_gpu_signs)
"""Whether a host has GPUs, also where its driver does not answer."""
