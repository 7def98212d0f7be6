"""What nvidia-smi tells of a host's GPUs: which there are, how busy they are, who holds their memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overspan.inventory.fact import Fact, Unreadable

GPU_FIELDS: Final = ("index", "name", "memory.total", "driver_version", "compute_cap")
GPU_LOAD_FIELDS: Final = ("index", "utilization.gpu", "power.draw", "memory.used", "temperature.gpu")
NOT_TOLD: Final = frozenset({"[N/A]", "N/A", "[Not Supported]", "Not Supported"})
"""What nvidia-smi prints for memory that is not the GPU's own. Source: docs.nvidia.com, DGX Spark, known issues."""


@dataclass(frozen=True)
class GpuRow:
    """A GPU. `memory_bytes` is none where it shares the machine's memory."""

    index: int
    name: str
    memory_bytes: int | None
    driver: str
    compute_capability: str | None


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
    """The fields of GPU_FIELDS; memory is in MiB."""
    rows = []
    for index, name, memory, driver, capability in _cells(text, len(GPU_FIELDS)):
        if not memory.isdigit() and memory not in NOT_TOLD:
            raise Unreadable(f"memory of GPU {index}: {memory}")
        known = capability if re.fullmatch(r"\d+\.\d+", capability) else None
        rows.append(GpuRow(int(index), name, _mebibytes(memory), driver, known))
    return rows


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


def _cells(text: str, count: int) -> list[list[str]]:
    """The cells of each line, of which the first is a GPU's number."""
    if text.strip() == "No devices were found":
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in text.strip().splitlines()]
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
GPU_LOAD: Final = Fact("gpu_load", _query("gpu", GPU_LOAD_FIELDS), parse_gpu_load)
GPU_PROCESSES: Final = Fact(
    "gpu_processes", _query("compute-apps", ("pid", "process_name", "used_memory")), parse_compute_apps
)
