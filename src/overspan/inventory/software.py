"""Facts about what runs containers and jobs there: Docker, Slurm."""

from __future__ import annotations

import json
from dataclasses import dataclass

from overspan.inventory.fact import Fact, Unreadable


@dataclass(frozen=True)
class Docker:
    """A Docker engine that answers. `gpu`: its NVIDIA runtime, or GPUs that it found as CDI devices."""

    version: str
    gpu: bool


@dataclass(frozen=True)
class Partition:
    """One partition of Slurm."""

    name: str
    default: bool
    up: bool
    time_limit: str
    nodes: int
    gres: str


def parse_docker_info(text: str) -> Docker:
    """`docker info` as JSON. It ends well even when no engine answers, and then holds why in ServerErrors."""
    try:
        info = json.loads(text)
    except ValueError:
        raise Unreadable(f"not JSON: {text.strip()[:80]!r}") from None
    if not isinstance(info, dict):
        raise Unreadable("not an object")
    problems = info.get("ServerErrors") or []
    version = info.get("ServerVersion")
    if not isinstance(version, str) or not version:
        raise Unreadable(str(problems[0]).splitlines()[0] if problems else "no ServerVersion")
    runtimes, devices = info.get("Runtimes") or {}, info.get("DiscoveredDevices") or []
    has_cdi = any("nvidia.com/gpu" in str(device.get("ID")) for device in devices if isinstance(device, dict))
    return Docker(version=version, gpu="nvidia" in runtimes or has_cdi)


def parse_sinfo(text: str) -> list[Partition]:
    """`sinfo -h -o %P|%a|%l|%D|%G`; a star marks the default partition, which may have a line for each kind of node."""
    cells = [line.strip().split("|") for line in text.strip().splitlines()]
    for row in cells:
        if len(row) != 5 or not row[3].isdigit():
            raise Unreadable("|".join(row)[:120])
    return [
        Partition(name.rstrip("*"), name.endswith("*"), state == "up", limit, int(nodes), gres.replace("(null)", ""))
        for name, state, limit, nodes, gres in cells
    ]


DOCKER = Fact("docker_info", ["docker", "info", "--format", "{{json .}}"], parse_docker_info)
SINFO = Fact(
    "sinfo", ["sinfo", "-h", "-o", "%P|%a|%l|%D|%G"], parse_sinfo, absent="Could not establish a configuration source"
)
"""Slurm's commands without a cluster that they belong to say so (slurm 22.05, Debian 12)."""
