"""The CPU platform switches chunked prefill and prefix caching off for latent attention (MLA) without AMX.

Its attention does both: it gathers the context from the cache (`gather_mla_context_cache_cpu`) and merges the parts, as
on a machine with AMX. Without the mend the flags are lost, with one line in the log, and a step takes as many tokens as
the model's context is long. With it what was asked for is kept.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from overspan_vllm.mend import Mend


def _cure(module: ModuleType) -> None:
    platform = module.CpuPlatform
    inner = platform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        scheduler, cache = vllm_config.scheduler_config, vllm_config.cache_config
        asked = scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens, cache.enable_prefix_caching
        inner(cls, vllm_config)
        model = vllm_config.model_config
        if model is not None and model.use_mla:
            scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens, cache.enable_prefix_caching = asked

    platform.check_and_update_config = classmethod(check_and_update_config)


MEND = Mend(
    name="chunked prefill and prefix caching with latent attention on the CPU",
    versions=("0.32",),
    module="vllm.platforms.cpu",
    cure=_cure,
)
