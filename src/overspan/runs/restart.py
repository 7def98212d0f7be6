"""Restarts, only where the recipe asks for them, and only when the memory of the dead is free again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from overspan.inventory.machine import MEMINFO
from overspan.inventory.probes import look, really_free_bytes
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Plan
from overspan.schema.units import gib
from overspan.transport.base import Transport

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0

FREE_AGAIN = 0.9
"""Of what was free before the first launch: the system's own use of memory drifts by a few per cent."""

_MEMORY_TIMEOUT_S = 120.0
"""A GPU driver gives unified memory back within seconds; what is not back by then is held by somebody."""


def pause_s(attempt: int) -> float:
    """Back-off before the restart after the nth death: 2, 4, 8 ... 60 seconds."""
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempt - 1)))


def free_bytes(plan: Plan, transports: Mapping[str, Transport]) -> dict[str, int]:
    """Memory that is really free on each host that tells it."""
    hosts = {host.name: host for host in plan.inventory.hosts}
    free = {}
    for name, transport in transports.items():
        if name not in hosts:  # a login node: the memory of Slurm's nodes is Slurm's to give
            continue
        memory = look(transport, MEMINFO)[0].value
        if memory is not None:
            unified = any(gpu.unified_memory for gpu in hosts[name].gpus)
            free[name] = really_free_bytes(memory, unified=unified)
    return free


def wait_for_memory(
    plan: Plan, transports: Mapping[str, Transport], before: Mapping[str, int], stopped: Callable[[], bool]
) -> None:
    """Wait until each host has its memory back.

    Raises:
        OverspanError: a host does not get it back; tells how much is missing.
    """
    deadline = time.monotonic() + _MEMORY_TIMEOUT_S
    while not stopped():
        now = free_bytes(plan, transports)
        held = {name: size for name, size in now.items() if size < FREE_AGAIN * before.get(name, 0)}
        if not held:
            return
        if time.monotonic() > deadline:
            name, size = next(iter(held.items()))
            missing = gib(before[name] - size)
            raise OverspanError(
                f"no restart: {missing} of {name} are not free again", next=f"on {name}: nvidia-smi; free -g"
            )
        time.sleep(1.0)
