"""How vLLM calls what Overspan reads of its `/metrics`."""

from __future__ import annotations

from typing import Final

from overspan.endpoint.metrics import MetricNames

VLLM_METRICS: Final = MetricNames(
    gauges={"vllm:num_requests_running": "running", "vllm:num_requests_waiting": "waiting"},
    shares={"vllm:kv_cache_usage_perc": "kv_cache_usage", "vllm:gpu_cache_usage_perc": "kv_cache_usage"},
    counters={
        "vllm:num_preemptions": "preemptions",
        "vllm:prefix_cache_queries": "prefix_cache_queries",
        "vllm:prefix_cache_hits": "prefix_cache_hits",
        "vllm:prompt_tokens": "prompt_tokens",
        "vllm:generation_tokens": "generation_tokens",
        "vllm:spec_decode_num_draft_tokens": "drafted_tokens",
        "vllm:spec_decode_num_accepted_tokens": "accepted_tokens",
        "vllm:external_prefix_cache_hits": "transferred_tokens",
    },
    labels={"vllm:cache_config_info": ("block_size", "block_tokens")},
)
"""Sources: vllm/v1/metrics/loggers.py of 0.32 and v1/spec_decode/metrics.py. `gpu_cache_usage_perc` is the name before
vLLM 0.10. `transferred_tokens` are those that came over a KV connector: vLLM counts them as hits of the external prefix
cache."""
