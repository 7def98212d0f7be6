"""Facts about the machine itself: processor, memory, disk, operating system, GPUs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from overspan.inventory.fact import Fact, Unreadable

BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What the kernel calls instructions that compute in bfloat16: two of x86, one of Arm.

Source: kernel.org, cpufeatures.h of x86 and cpuinfo.c of arm64."""


@dataclass(frozen=True)
class Kernel:
    """What `uname` says."""

    node: str
    release: str
    arch: str


@dataclass(frozen=True)
class Cpu:
    """Physical cores of all sockets and clusters."""

    model: str
    cores: int
    bf16: bool | None = None


@dataclass(frozen=True)
class HostMemory:
    """Bytes. `free` is what nobody uses; `available` counts page cache that could be given back."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int


@dataclass(frozen=True)
class Disk:
    """The file system that holds a folder."""

    mount: str
    total_bytes: int
    free_bytes: int


def parse_uname(text: str) -> Kernel:
    """`uname -nrm`."""
    words = text.split()
    if len(words) != 3:
        raise Unreadable(f"expected node, release and machine, found {text.strip()[:80]!r}")
    return Kernel(*words)


def parse_os_release(text: str) -> str:
    """The pretty name in os-release(5)."""
    found = re.search(r"^PRETTY_NAME=(.+)$", text, re.MULTILINE)
    if found is None:
        raise Unreadable("no PRETTY_NAME")
    return found[1].strip().strip("\"'")


def parse_lscpu(text: str) -> Cpu:
    """`lscpu -J`. A processor with two kinds of core (GB10: 10 Cortex-X925, 10 Cortex-A725) lists each kind."""
    try:
        rows = json.loads(text)["lscpu"]
    except (ValueError, KeyError, TypeError):
        raise Unreadable(f"not lscpu's JSON: {text.strip()[:60]!r}") from None
    fields: dict[str, list[str]] = {}
    _flatten(rows, fields)
    models = fields.get("Model name", [])
    per_socket, sockets = fields.get("Core(s) per socket", []), fields.get("Socket(s)", [])
    per_socket = per_socket or fields.get("Core(s) per cluster", [])
    sockets = sockets if any(count.isdigit() for count in sockets) else fields.get("Cluster(s)", [])
    pairs = [(int(a), int(b)) for a, b in zip(per_socket, sockets, strict=False) if a.isdigit() and b.isdigit()]
    cores = sum(a * b for a, b in pairs) or next((int(n) for n in fields.get("CPU(s)", []) if n.isdigit()), 0)
    if cores == 0:
        raise Unreadable("no number of CPUs")
    return Cpu(model=" + ".join(models), cores=cores, bf16=computes_bf16(fields.get("Flags", [])))


def computes_bf16(flags: list[str]) -> bool | None:
    """Whether every kind of core computes in bfloat16, from its flags as the kernel lists them; None without any."""
    return all(BF16_FLAGS & set(each.split()) for each in flags) if flags else None


def _flatten(rows: Any, fields: dict[str, list[str]]) -> None:
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict):
            fields.setdefault(str(row.get("field", "")).rstrip(":"), []).append(str(row.get("data", "")).strip())
            _flatten(row.get("children"), fields)


def parse_meminfo(text: str) -> HostMemory:
    """/proc/meminfo; its unit `kB` is 1024 bytes (proc(5))."""
    values = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if not values.get("MemTotal") or "MemFree" not in values:
        raise Unreadable("no MemTotal and MemFree")
    return HostMemory(
        total_bytes=values["MemTotal"],
        free_bytes=values["MemFree"],
        available_bytes=values.get("MemAvailable", values["MemFree"]),
        cached_bytes=values.get("Cached", 0) + values.get("Buffers", 0) + values.get("SReclaimable", 0),
    )


def parse_df(text: str) -> Disk:
    """`df -P -B1 FOLDER`."""
    lines = text.strip().splitlines()
    found = re.fullmatch(r"(.+?)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+%|-)\s+(/.*)", lines[-1]) if len(lines) > 1 else None
    if found is None:
        raise Unreadable(f"no line of a file system: {text.strip()[:80]!r}")
    return Disk(mount=found[6], total_bytes=int(found[2]), free_bytes=int(found[4]))


UNAME = Fact("uname", ["uname", "-nrm"], parse_uname)
OS_RELEASE = Fact("os_release", ["cat", "/etc/os-release"], parse_os_release)
LSCPU = Fact("lscpu", ["lscpu", "-J"], parse_lscpu)
MEMINFO = Fact("meminfo", ["cat", "/proc/meminfo"], parse_meminfo)
DF = Fact("df", ["df", "-P", "-B1", "."], parse_df)
"""Asked in the home folder, where models are cached unless somebody says otherwise."""
