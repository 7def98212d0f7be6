"""Ranks on two hosts agree on the name of one shared memory that they cannot share.

Without the mend: `open shm in SHMManager failed. errno: 2`. vLLM compares names only; two hosts, or two containers of
one host, get equal names. So the kernel's boot and the file system behind /dev/shm are compared as well; ranks that
differ talk through torch.distributed, which vLLM falls back to by itself.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch.distributed as dist

from overspan_vllm.mend import Mend


def shared_memory_identity() -> str:
    """The same for two processes if and only if a name in /dev/shm means one thing to both."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}:{Path('/dev/shm').stat().st_dev}"  # noqa: S108


def _cure(module: ModuleType) -> None:
    communicator = module.CpuCommunicator
    inner = communicator._all_group_ranks_share_shm_group_name

    def _all_group_ranks_share_shm_group_name(self: Any) -> bool:
        found = [""] * self.world_size
        dist.all_gather_object(found, shared_memory_identity(), group=self.device_group)
        # Both are collectives, so that every rank must run both.
        return bool(inner(self)) and len(set(found)) == 1

    communicator._all_group_ranks_share_shm_group_name = _all_group_ranks_share_shm_group_name


MEND = Mend(
    name="shared-memory names over hosts on the CPU",
    versions=("0.32",),
    module="vllm.distributed.device_communicators.cpu_communicator",
    cure=_cure,
)
