"""The CPU MoE kernels ignore the expert map, so that expert parallelism reads weights that this rank has not.

Without the mend: a segmentation fault in `cpu_fused_moe`. With it the kernels get local ids only, and an expert of
another rank counts with weight 0; the sum over the ranks, which follows, brings its share.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    experts = module.CPUUnquantizedExperts
    inner = experts.apply

    def apply(
        self: Any,
        *,
        output: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        expert_map: torch.Tensor | None,
        apply_router_weight_on_input: bool,
        **rest: Any,
    ) -> None:
        rest.update(output=output, expert_map=None, apply_router_weight_on_input=apply_router_weight_on_input)
        if expert_map is None:
            inner(self, topk_weights=topk_weights, topk_ids=topk_ids, **rest)
            return
        weights, ids, foreign = localize(topk_weights, topk_ids, expert_map)
        inner(self, topk_weights=weights, topk_ids=ids, **rest)
        if apply_router_weight_on_input:
            # Each token has one expert then, and the kernel does not weigh it.
            output[foreign.any(dim=-1)] = 0

    experts.apply = apply


def localize(
    topk_weights: torch.Tensor, topk_ids: torch.Tensor, expert_map: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Global expert ids [tokens, k] to this rank's ids, foreign experts (-1 in the map) to id 0 with weight 0."""
    local = expert_map[topk_ids.long()]
    foreign = local < 0
    weights = topk_weights.masked_fill(foreign, 0).contiguous()
    return weights, local.clamp(min=0).to(topk_ids.dtype).contiguous(), foreign


MEND = Mend(
    name="expert maps (expert parallelism) on the CPU",
    versions=("0.32",),
    module="vllm.model_executor.layers.fused_moe.experts.cpu_moe",
    cure=_cure,
)
