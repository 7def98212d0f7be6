"""CUDA graphs: which batch sizes vLLM captures, and the memory that they take. Source: vllm/config/vllm.py of 0.32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

LAYER_BYTES: Final = 0.35e6
"""Of one captured size, for each layer of a rank. Measured on one H200 (vLLM 0.26, 2026-11-30): 62 layers with 5 sizes
0.09 GiB, so 0.31e6; the largest of five models 0.98 GiB. Published: 16 layers with 35 sizes 0.21 GiB, so 0.40e6 (vLLM
pull request 11349). An estimate: a wrong one moves the answer by some hundred megabytes."""

LARGEST: Final = 512
"""Tokens of the largest size that is captured unless it is set; twice as many on data-centre Blackwell and for gpt-oss
(`GptOssForCausalLMConfig`)."""

SEQUENCES: Final = ((70 * 2**30, 1024), (0, 256))
"""Default of max_num_seqs by the memory of a GPU. Source: vllm/engine/arg_utils.py, get_batch_defaults."""


def settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments say of graphs: in `compilation_config`, or each in an argument of its own."""
    held = args.get("compilation_config")
    if isinstance(held, str):
        try:
            held = json.loads(held)
        except ValueError:
            held = None
    return {**(held if isinstance(held, dict) else {}), **{name: value for name, value in args.items() if value}}


def captured(args: Mapping[str, Any], memory_bytes: float, batched: int, *, wide: bool = False) -> list[int]:
    """The batch sizes, in tokens, of which a rank captures graphs; none where it runs without graphs.

    Args:
        args: the engine's arguments.
        memory_bytes: of one GPU; vLLM's own default of max_num_seqs follows from it.
        batched: max_num_batched_tokens.
        wide: data-centre Blackwell or gpt-oss, whose largest size is twice the usual one.
    """
    asked = settings(args)
    mode, level = str(asked.get("cudagraph_mode", "")).upper(), str(asked.get("optimization_level", ""))
    if asked.get("enforce_eager") or mode in {"NONE", "0"} or level in {"0", "O0"}:
        return []
    given = asked.get("cudagraph_capture_sizes")
    if isinstance(given, list):
        return sorted({size for size in given if isinstance(size, int) and 0 < size <= batched})
    sequences = asked.get("max_num_seqs")
    if not isinstance(sequences, int):
        sequences = next(count for least, count in SEQUENCES if memory_bytes >= least)
    draft = asked.get("speculative_config")
    drafted = draft.get("num_speculative_tokens", 0) if isinstance(draft, dict) else 0
    each = 1 + drafted if isinstance(drafted, int) else 1
    most = asked.get("max_cudagraph_capture_size")
    largest = most if isinstance(most, int) else min(2 * sequences * each, LARGEST * (2 if wide else 1))
    largest = min(largest, batched)
    sizes = {size for size in (1, 2, 4, *range(8, 256, 8), *range(256, largest + 1, 16)) if size <= largest}
    decodes = {size * each for size in sizes} | {sequences * each} if not isinstance(most, int) else set()
    return sorted(sizes | {size for size in decodes if size <= largest})
