"""The CPU communicator lacks the collectives of variable size, which data parallelism with MoE needs.

Without the mend: `NotImplementedError` in `all_gatherv`. With it: pad, gather and trim; reduce, then take the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch

from overspan_vllm.mend import Mend


def all_gatherv(
    self: Any, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: Sequence[int] | None = None
) -> torch.Tensor | list[torch.Tensor]:
    """Concatenate every rank's tensor along dimension 0; rank r gives `sizes[r]` rows, or as many as all others."""
    if dim != 0:
        raise NotImplementedError("all_gatherv on the CPU gathers along dimension 0 only")
    if isinstance(input_, list):
        return [_gather(self, tensor, sizes) for tensor in input_]
    return _gather(self, input_, sizes)


def _gather(communicator: Any, tensor: torch.Tensor, sizes: Sequence[int] | None) -> torch.Tensor:
    rows = list(sizes) if sizes is not None else [tensor.shape[0]] * communicator.world_size
    padded = tensor.new_zeros((max(rows), *tensor.shape[1:]))
    padded[: tensor.shape[0]] = tensor
    gathered = [torch.empty_like(padded) for _ in rows]
    communicator.dist_module.all_gather(gathered, padded, group=communicator.device_group)
    return torch.cat([each[:count] for each, count in zip(gathered, rows, strict=True)])


def reduce_scatterv(self: Any, input_: torch.Tensor, dim: int = -1, sizes: Sequence[int] | None = None) -> torch.Tensor:
    """Sum every rank's tensor; rank r gets `sizes[r]` rows of the sum along `dim`, or an equal share."""
    rows = list(sizes) if sizes is not None else [input_.shape[dim] // self.world_size] * self.world_size
    total = input_.contiguous().clone()
    self.dist_module.all_reduce(total, group=self.device_group)
    return total.narrow(dim, sum(rows[: self.rank_in_group]), rows[self.rank_in_group]).contiguous()


def _cure(module: ModuleType) -> None:
    module.CpuCommunicator.all_gatherv = all_gatherv
    module.CpuCommunicator.reduce_scatterv = reduce_scatterv


MEND = Mend(
    name="collectives of variable size (data parallelism with MoE) on the CPU",
    versions=("0.32",),
    module="vllm.distributed.device_communicators.cpu_communicator",
    cure=_cure,
)
