"""Ranks that wait for each other in shared memory do so without giving their core away.

Where ranks have no core each, one that waits keeps the one it waits for from running, a time slice at each collective.
With the mend they talk through torch.distributed, which sleeps; vLLM falls back to it by itself where shared memory is
not to be had. A switch turns it on: with cores enough, shared memory is the quicker way.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    communicator = module.CpuCommunicator
    inner = communicator._all_group_ranks_share_shm_group_name

    def _all_group_ranks_share_shm_group_name(self: Any) -> bool:
        inner(self)  # a collective: another host's ranks, with cores enough, run it too
        return False

    communicator._all_group_ranks_share_shm_group_name = _all_group_ranks_share_shm_group_name


MEND = Mend(
    name="waits in shared memory on too few cores",
    versions=("0.32",),
    module="vllm.distributed.device_communicators.cpu_communicator",
    cure=_cure,
    switch="OVERSPAN_RANKS_SHARE_CORES",
)
