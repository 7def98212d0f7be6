"""Which kind each layer of a model is, as its config.json says it: of attention, and with experts or without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from overspan.schema.errors import ModelUnavailable

# All layers look at a window: transformers' own default where `use_sliding_window` is not written out.
_ALL_SLIDE: Final = ("mistral", "phi3", "starcoder2")
# One layer in so many looks at everything, the others at a window, where the config writes no list of layers.
# Source: `layer_types` in the configuration classes of transformers 5.
_FULL_EACH: Final = {"gemma2": 2, "gpt_oss": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4, "exaone4": 4}


def of_layers(raw: Mapping[str, Any], layers: int) -> list[str]:
    """Each layer's attention: full, sliding, sparse, linear (no cache that grows), or none.

    Raises:
        ModelUnavailable: a list in the config has fewer entries than the model has layers.
    """
    types = flags(raw, "layer_types", layers) or flags(raw, "layers_block_type", layers)
    if types is not None:
        return [_kind(str(name)) for name in types]
    sparse = raw.get("sparse_attention_config")
    if isinstance(sparse, Mapping) and (chosen := flags(sparse, "sparse_attention_freq", layers)):
        return ["sparse" if flag else "full" for flag in chosen]
    codes = flags(raw, "attn_type_list", layers)  # MiniMax: 1 is softmax, 0 lightning attention
    if codes is not None:
        return ["full" if code else "linear" for code in codes]
    if raw.get("index_topk") and raw.get("kv_lora_rank"):  # DeepSeek V3.2: an indexer chooses the tokens that are read
        return ["sparse"] * layers
    return _mixed(raw, layers) or _sliding(raw, layers)


def _kind(name: str) -> str:
    if name in ("mlp", "moe"):
        return "none"
    if "sliding" in name or "chunked" in name or name == "local":
        return "sliding"
    if any(part in name for part in ("linear", "mamba", "conv", "recurrent", "kda", "delta")):
        return "linear"
    return "sparse" if "sparse" in name else "full"


def _mixed(raw: Mapping[str, Any], layers: int) -> list[str] | None:
    """Models whose layers are mostly no attention, in the words of their own configs."""
    pattern = raw.get("hybrid_override_pattern")  # Nemotron-H: M mamba, * attention, - and E feed-forward
    if isinstance(pattern, str) and len(pattern) >= layers:
        return [{"M": "linear", "*": "full"}.get(code, "none") for code in pattern[:layers]]
    chosen = raw.get("attn_layer_indices")  # Bamba
    inner = raw.get("linear_attn_config")  # Kimi-Linear counts its layers from 1
    if isinstance(inner, Mapping) and isinstance(inner.get("full_attn_layers"), list):
        chosen = [index - 1 for index in inner["full_attn_layers"] if isinstance(index, int)]
    if isinstance(chosen, list):
        return ["full" if index in chosen else "linear" for index in range(layers)]
    step, first = raw.get("attn_layer_period"), raw.get("attn_layer_offset", 0)  # Jamba
    if step is None:  # Qwen3-Next: the last of each so many
        step = raw.get("full_attention_interval")
        first = step - 1 if isinstance(step, int) else 0
    if isinstance(step, int) and isinstance(first, int) and step > 1:
        return ["full" if index % step == first else "linear" for index in range(layers)]
    return None


def _sliding(raw: Mapping[str, Any], layers: int) -> list[str]:
    family, window = str(raw.get("model_type")), raw.get("sliding_window") or raw.get("attention_chunk_size")
    if not window or not raw.get("use_sliding_window", True):
        return ["full"] * layers
    if family in _ALL_SLIDE:
        return ["sliding"] * layers
    each = raw.get("sliding_window_pattern", raw.get("_sliding_window_pattern", _FULL_EACH.get(family)))
    if isinstance(each, str) and each:  # EXAONE 4 and its like: `LLLG`, over and over
        return ["full" if each[index % len(each)] == "G" else "sliding" for index in range(layers)]
    if isinstance(each, int) and each > 1:
        return ["full" if (index + 1) % each == 0 else "sliding" for index in range(layers)]
    places = flags(raw, "no_rope_layers", layers)  # Llama 4: layers with positions look at their chunk
    if family.startswith("llama4"):
        turned = places or [(index + 1) % 4 for index in range(layers)]
        return ["sliding" if turn else "full" for turn in turned]
    return ["full"] * layers


def with_experts(raw: Mapping[str, Any], layers: int) -> list[bool]:
    """Which layers have experts.

    Raises:
        ModelUnavailable: a list in the config has fewer entries than the model has layers.
    """
    named = flags(raw, "mlp_layer_types", layers)
    if named is not None:
        return [name == "sparse" for name in named]
    chosen = flags(raw, "moe_layer_freq", layers)
    if chosen is not None:
        return [bool(flag) for flag in chosen]
    first = _count(raw, "first_k_dense_replace", "moe_layer_start_index")
    step = _count(raw, "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", "expert_layer_period")
    offset = raw.get("expert_layer_offset")  # Jamba: counted from the first layer, not from the end of a period
    step = step or 1
    rest = offset % step if isinstance(offset, int) else step - 1
    dense = raw.get("mlp_only_layers")
    skip = set(dense) if isinstance(dense, list) else set()
    pattern = raw.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) >= layers:
        return [code == "E" for code in pattern[:layers]]
    return [index >= first and index % step == rest and index not in skip for index in range(layers)]


def _count(raw: Mapping[str, Any], *keys: str) -> int:
    for key in keys:
        value = raw.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def flags(raw: Mapping[str, Any], key: str, layers: int) -> list[Any] | None:
    """A list with one entry a layer, where there is one; longer ones (MTP layers follow) are cut.

    Raises:
        ModelUnavailable: it is shorter.
    """
    value = raw.get(key)
    if not isinstance(value, list):
        return None
    if len(value) < layers:
        raise ModelUnavailable(f"config.json: '{key}' has {len(value)} entries for {layers} layers")
    return value[:layers]
