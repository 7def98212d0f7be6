"""What the fast scan looks for: every message of a rule, and nothing that healthy servers write all day."""

from __future__ import annotations

import pytest

from overspan.doctor.book import load_book
from overspan.doctor.patterns import BadPattern, anchors, compile_rule_pattern
from support.doctor import ask

HOT = [
    "INFO 11-22 10:00:00 [loggers.py:236] Engine 000: Avg prompt throughput: 7.4 tokens/s, Avg generation throughput: "
    "9.8 tokens/s, Running: 16 reqs, Waiting: 0 reqs, GPU KV cache usage: 3.1%, Prefix cache hit rate: 0.0%",
    "INFO 11-22 10:00:00 [metrics.py:101] SpecDecoding metrics: Mean acceptance length: 2.1, Draft rate: 55.0%",
    'INFO:     10.0.0.7:47082 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    'INFO:     10.0.0.7:47082 - "GET /health HTTP/1.1" 200 OK',
    "DEBUG 11-22 10:00:00 [core.py:512] EngineCore loop active, 7 requests, step took 7 ms",
    "DEBUG 11-22 10:00:00 [core.py:798] EngineCore waiting for work.",
    "INFO 11-22 10:00:00 [logger.py:43] Received request chatcmpl-7: prompt: 'hello', params: SamplingParams(n=1)",
    "INFO 11-22 10:00:00 [async_llm.py:275] Added request chatcmpl-7.",
    "[2026-11-22 10:00:00 TP0] Decode batch. #running-req: 7, #token: 2048, token usage: 0.01, cuda graph: True, "
    "gen throughput (token/s): 611.2, #queue-req: 0",
    "[2026-11-22 10:00:00 TP0] Prefill batch. #new-seq: 1, #new-token: 10, #cached-token: 0, token usage: 0.00",
    "2026-11-22T10:00:00.1Z  INFO http_request: started processing request method=POST path=/v1/chat/completions",
    '{"time":"2026-11-22T10:00:00Z","level":"INFO","message":"finished processing request","status":200}',
    "spark1:4775:4803 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA",
    "spark1:4775:4803 [0] NCCL INFO AllReduce: opCount 2f sendbuff 0x7f recvbuff 0x7f count 4096 datatype 9 op 0",
    "(RayWorkerWrapper pid=539) INFO 11-22 10:00:00 [gpu_worker.py:470] loaded shard 7 of 126, 1.53 GB, cuda:0",
    "WARNING 11-22 10:00:00 [fused_moe.py:1090] Using default MoE config. Config file not found at "
    "/usr/lib/python3/vllm/configs/E=256,N=512,device_name=NVIDIA_GB10.json",
    'INFO:     10.0.0.7:47082 - "POST /tokenize HTTP/1.1" 200 OK, vllm/0.32.0 auth token ok',
    "Loading safetensors checkpoint shards:  45% Completed | 57/126 [01:23<01:41,  1.47s/it]",
]


@pytest.mark.parametrize("line", HOT)
def test_the_fast_scan_does_not_stop_at_a_healthy_line(line: str) -> None:
    found = load_book().prefilter(False, False).search(line.encode())
    assert found is None, line[found.start() : found.end()]


def test_every_alternative_of_a_pattern_has_an_anchor_of_its_own() -> None:
    assert anchors("squid says no|octopus says \\d+") == ["squid says no", "octopus says"]
    assert anchors(r"(?:is|was) complete|All \d+ nodes (?:are )?(?:alive|ready)") == ["complete", "alive", "ready"]
    with pytest.raises(BadPattern, match="plain characters"):
        anchors("squid says no|not host")


def test_a_small_log_compiles_only_the_patterns_whose_anchors_it_holds() -> None:
    load_book()
    compile_rule_pattern.cache_clear()
    assert ask("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")[0].rule == "cuda-oom-load"
    assert compile_rule_pattern.cache_info().currsize < 100 < len(load_book().probes)
