"""What vLLM's entry points call. Both may be called more than once, in every process of the engine."""

from __future__ import annotations

from overspan_vllm import (
    cpu_expert_maps,
    cpu_fork_workers,
    cpu_mla_context,
    cpu_pipeline_buffers,
    cpu_queue_waits,
    cpu_ray,
    cpu_rotary_heads,
    cpu_shared_memory_collectives,
    cpu_shared_memory_names,
    cpu_sigmoid_routing,
    cpu_variable_collectives,
    die_with_parent,
    dynamo_without_torchvision,
    example_connector,
    minimax_qk_norm_fusion,
    quick_imports,
    synthetic_weights,
)
from overspan_vllm.mend import arrange, flush

EARLY = [cpu_ray.MEND, cpu_mla_context.MEND, cpu_fork_workers.MEND, dynamo_without_torchvision.MEND]
"""These mend the platform itself, which Ray's actors ask before they load general plugins, and what Dynamo imports
before vLLM loads any."""

GENERAL = [
    cpu_sigmoid_routing.MEND,
    cpu_expert_maps.MEND,
    cpu_pipeline_buffers.MEND,
    cpu_rotary_heads.MEND,
    cpu_variable_collectives.MEND,
    cpu_shared_memory_names.MEND,
    cpu_fork_workers.SERVERS,
    cpu_queue_waits.MEND,
    cpu_shared_memory_collectives.MEND,
    cpu_shared_memory_collectives.PADDING,
    example_connector.MEND,
    minimax_qk_norm_fusion.MEND,
    synthetic_weights.MEND,
]


def platform() -> None:
    """A platform plugin that claims no platform (None says so): it only runs before the platform is chosen."""
    die_with_parent.arrange()
    arrange(EARLY)


def general() -> None:
    """Everything. Some versions load general plugins only."""
    platform()
    arrange(GENERAL)
    quick_imports.end()
    flush()
