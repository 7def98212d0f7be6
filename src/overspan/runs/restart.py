"""Restarts, only where the recipe asks for them, and only when the memory of the dead is free again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from overspan.inventory.gpus import GPU_LOAD
from overspan.inventory.machine import MEMINFO
from overspan.inventory.probes import look, really_free_bytes
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Plan
from overspan.schema.units import gib
from overspan.transport.base import Transport

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0

HEALTHY_S: Final = 3600.0
"""A run that served this long is well: its restarts are counted from the start again, and so is the back-off."""

HOST_FREE_AGAIN: Final = 0.9
"""Of what was free before the first launch: the system's own use of memory drifts by a few per cent."""

GPU_FREE_AGAIN: Final = 0.97
"""A GPU's own memory has no such drift; a driver's or a display's share stays as it was."""

_MEMORY_TIMEOUT_S = 120.0
"""A GPU driver gives memory back within seconds; what is not back by then is held by somebody."""


class Restarts:
    """How often a run may start again. `count`: the restarts since it last served for `HEALTHY_S`."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self._serving_since: float | None = None

    def serving(self) -> None:
        """The run answers requests."""
        self._serving_since = self._serving_since or time.monotonic()

    def pause_s(self) -> float | None:
        """After a death: seconds until the restart, 2, 4, 8 ... 60; None where there may be no more of them."""
        if self._serving_since is not None and time.monotonic() - self._serving_since >= HEALTHY_S:
            self.count = 0
        self._serving_since = None
        if self.count >= self.most:
            return None
        self.count += 1
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.count - 1)))


class FreeMemory:
    """The memory of a run's hosts and of its GPUs, as it was before the launch."""

    def __init__(self, plan: Plan, transports: Mapping[str, Transport]) -> None:
        self._hosts = {host.name: host for host in plan.inventory.hosts}
        self._gpus = {(each.host, gpu) for each in plan.own for gpu in each.gpus}
        # Not a login node: the memory of Slurm's nodes is Slurm's to give.
        self._ways = {name: way for name, way in transports.items() if name in self._hosts}
        self._before = self._free()

    def _free(self) -> dict[tuple[str, int | None], int]:
        """Bytes that are free on each host (GPU: None) and on each of the run's GPUs, where they can be told."""
        return {place: size for name in self._ways for place, size in self._free_of(name)}

    def _free_of(self, name: str) -> Iterator[tuple[tuple[str, int | None], int]]:
        gpus = self._hosts[name].gpus
        memory = look(self._ways[name], MEMINFO)[0].value
        if memory is not None:
            yield (name, None), really_free_bytes(memory, unified=any(gpu.unified_memory for gpu in gpus))
        own = {gpu.index: gpu for gpu in gpus if not gpu.unified_memory and (name, gpu.index) in self._gpus}
        for load in (look(self._ways[name], GPU_LOAD)[0].value or []) if own else []:
            if load.index in own and load.memory_used_bytes is not None:
                yield (name, load.index), own[load.index].size_bytes - load.memory_used_bytes

    def wait(self, ended: Callable[[], bool]) -> None:
        """Wait until it is free again, or until `ended`.

        Raises:
            OverspanError: a part of it does not come back; tells where and how much is missing.
        """
        deadline = time.monotonic() + _MEMORY_TIMEOUT_S
        while not ended():
            now = self._free()
            for (host, gpu), before in self._before.items():
                size = now.get((host, gpu))
                if size is None or size < (HOST_FREE_AGAIN if gpu is None else GPU_FREE_AGAIN) * before:
                    break
            else:
                return
            if time.monotonic() > deadline:
                where = host if gpu is None else f"GPU {gpu} of {host}"
                what = f"{where} does not tell its memory" if size is None else f"{gib(before - size)} of {where} are"
                raise OverspanError(
                    f"no restart: {what}{' any more' if size is None else ' not free again'}",
                    next=f"on {host}: nvidia-smi; free -g",
                )
            time.sleep(1.0)
