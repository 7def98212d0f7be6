"""The CPU's rotary kernel takes the heads of a third dimension for one head, and its tokens for neighbours in memory.

Latent attention (MLA) gives it such queries, as views of wider rows. Without the mend only the first head is turned and
keys are read from the wrong places, so that every token but a prompt's first is wrong, with no error. Models whose
positions are scaled as DeepSeek's own (YaRN) take another path. With the mend plain torch turns these.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    rotary = module.RotaryEmbedding
    inner = rotary.forward_cpu

    def forward_cpu(self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> Any:
        if query.dim() > positions.dim() + 1:
            return self.forward_native(positions, query, key)
        return inner(self, positions, query, key)

    rotary.forward_cpu = forward_cpu


MEND = Mend(
    name="rotary embedding of heads in a dimension of their own on the CPU",
    versions=("0.32",),
    module="vllm.model_executor.layers.rotary_embedding.base",
    cure=_cure,
)
