"""The shape of a model, read from a config.json that may be anything: every size is checked before it is used."""

from collections.abc import Mapping
from typing import Any, Final

from overspan.schema.base import Frozen
from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import Attention

_LIMIT: Final = 10**8
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float": "fp32", "half": "fp16"}
# The feed-forward part of these has two matrices, not three (no gate). Source: their classes in transformers 5.
_UNGATED: Final = frozenset({"gpt2", "gpt_neox", "opt", "phi", "starcoder2", "nemotron", "falcon", "bloom", "gptj"})
# Counted right by the general rules; source: their classes in transformers 5.
_GATED: Final = """
    llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe minimax_m2 minimax_m3_vl minimax_m3_vl_text deepseek_v2
    deepseek_v3 kimi_k2 glm4 glm4_moe gemma gemma2 gemma3 gemma3_text gpt_oss granite olmo olmo2 phi3 smollm3 cohere
    ernie4_5 ernie4_5_moe hunyuan_v1_dense seed_oss
"""
KNOWN: Final = frozenset(_GATED.split()) | _UNGATED
# Each head's queries and keys are normalised by themselves, or all heads together (a collective in TP).
_NORM_HEAD: Final = frozenset(
    {"qwen3", "qwen3_moe", "glm4_moe", "gemma3", "gemma3_text", "minimax_m3_vl", "minimax_m3_vl_text"}
)
_NORM_TENSOR: Final = frozenset({"minimax_m2", "olmo2"})


class Shape(Frozen):
    """Sizes of one model, as its config.json gives them."""

    raw: dict[str, Any]
    architecture: str
    dtype: str
    layers: int
    hidden: int
    vocab: int
    tied: bool
    max_context: int | None
    attention: Attention
    intermediate: int
    mlp_matrices: int
    experts: int
    experts_per_token: int
    expert_intermediate: int
    shared_intermediate: int
    moe_name: str
    is_moe: list[bool]
    linear: list[bool]
    mtp_layers: int
    warnings: list[str]


def read(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json gives.

    Raises:
        ModelUnavailable: a size is missing, of the wrong type or absurd; names the key.
    """
    raw, family, architecture = _names(config)
    layers = _size(raw, "num_hidden_layers", "n_layer", "n_layers", limit=10_000)
    hidden = _size(raw, "hidden_size", "n_embd", "d_model")
    kinds = _layer_kinds(raw, layers)
    experts = _optional(raw, "num_local_experts", "num_experts", "n_routed_experts")
    warnings = (
        [] if family in KNOWN else [f"unknown architecture '{architecture}' ({family}): counted by general rules"]
    )
    if any(kind == "linear" for kind in kinds):
        warnings.append("layers with linear attention are counted by general rules")
    return Shape(
        raw=raw,
        architecture=architecture,
        dtype=_dtype(raw, config),
        layers=layers,
        hidden=hidden,
        vocab=_size(raw, "vocab_size"),
        # transformers' own default for tie_word_embeddings is true only in a few families; they all write it out.
        tied=bool(raw.get("tie_word_embeddings", config.get("tie_word_embeddings", family.startswith("gemma")))),
        max_context=_context(raw),
        attention=_attention(raw, family, hidden, kinds),
        intermediate=_dense_width(raw, hidden),
        mlp_matrices=2 if family in _UNGATED else 3,
        experts=experts,
        experts_per_token=_size(raw, "num_experts_per_tok", "num_experts_per_token", "moe_topk") if experts else 0,
        expert_intermediate=_size(raw, "moe_intermediate_size", "intermediate_size") if experts else 0,
        shared_intermediate=_shared_width(raw) if experts else 0,
        moe_name="block_sparse_moe" if family.startswith(("minimax", "mixtral")) else "mlp",
        is_moe=_moe_layers(raw, layers) if experts else [False] * layers,
        linear=[kind == "linear" for kind in kinds],
        mtp_layers=_mtp(raw),
        warnings=_warnings(architecture, family, kinds),
    )


def _names(config: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """The text part of a config, the model's family and its architecture."""
    inner = config.get("text_config", config.get("llm_config"))
    raw = dict(inner) if isinstance(inner, Mapping) else dict(config)
    family = str(raw.get("model_type") or config.get("model_type") or "unknown")
    architectures = config.get("architectures") or raw.get("architectures")
    return raw, family, str(architectures[0]) if isinstance(architectures, list) and architectures else family


def _warnings(architecture: str, family: str, kinds: list[str]) -> list[str]:
    """What the general rules may get wrong."""
    found = [] if family in KNOWN else [f"unknown architecture '{architecture}' ({family}): counted by general rules"]
    if "linear" in kinds:
        found.append("layers with linear attention are counted by general rules")
    return found


def _number(value: Any, key: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelUnavailable(f"config.json: '{key}' must be a whole number from {low} to {high} (given: {value!r})")
    return value


def _size(raw: Mapping[str, Any], *keys: str, limit: int = _LIMIT) -> int:
    for key in keys:
        if raw.get(key) is not None:
            return _number(raw[key], key, 1, limit)
    raise ModelUnavailable(
        f"config.json: no '{keys[0]}'" + (f" (nor {', '.join(keys[1:])})" if keys[1:] else ""),
        next="is this the config.json of a language model?",
    )


def _optional(raw: Mapping[str, Any], *keys: str, limit: int = _LIMIT) -> int:
    for key in keys:
        if raw.get(key) is not None:
            return _number(raw[key], key, 0, limit)
    return 0


def _flags(raw: Mapping[str, Any], key: str, layers: int) -> list[Any] | None:
    """A list with one entry a layer, where there is one; longer ones (MTP layers follow) are cut."""
    value = raw.get(key)
    if not isinstance(value, list):
        return None
    if len(value) < layers:
        raise ModelUnavailable(f"config.json: '{key}' has {len(value)} entries for {layers} layers")
    return value[:layers]


def _dtype(raw: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    given = raw.get("dtype") or raw.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return _DTYPES.get(str(given).removeprefix("torch."), "bf16")


def _layer_kinds(raw: Mapping[str, Any], layers: int) -> list[str]:
    """Each layer's attention: full, sliding, sparse or linear."""
    types = _flags(raw, "layer_types", layers)
    if types is not None:
        return [_kind(str(name)) for name in types]
    sparse = raw.get("sparse_attention_config")
    if isinstance(sparse, Mapping) and (flags := _flags(sparse, "sparse_attention_freq", layers)):
        return ["sparse" if flag else "full" for flag in flags]
    codes = _flags(raw, "attn_type_list", layers)  # MiniMax: 1 is softmax, 0 lightning attention
    if codes is not None:
        return ["full" if code else "linear" for code in codes]
    window = raw.get("sliding_window")
    if (
        window
        and raw.get("use_sliding_window", True)
        and str(raw.get("model_type")) in ("mistral", "phi3", "starcoder2")
    ):
        return ["sliding"] * layers
    return ["full"] * layers


def _kind(name: str) -> str:
    if "sliding" in name or "chunked" in name:
        return "sliding"
    if "linear" in name or "mamba" in name or "conv" in name:
        return "linear"
    return "sparse" if "sparse" in name else "full"


def _attention(raw: Mapping[str, Any], family: str, hidden: int, kinds: list[str]) -> Attention:
    heads = _size(raw, "num_attention_heads", "n_head", "n_heads", limit=10_000)
    kv_heads = _optional(raw, "num_key_value_heads", "num_kv_heads", limit=10_000) or heads
    rank = _optional(raw, "kv_lora_rank")
    rope = _optional(raw, "qk_rope_head_dim")
    head_dim = _optional(raw, "head_dim") or max(1, hidden // heads)
    if rank:
        head_dim = _size(raw, "qk_nope_head_dim") + rope
    norm = "tensor" if family in _NORM_TENSOR else "head" if family in _NORM_HEAD else "none"
    sparse = raw.get("sparse_attention_config")
    block = _optional(sparse if isinstance(sparse, Mapping) else raw, "sparse_block_size", "index_block_size")
    blocks = _optional(sparse if isinstance(sparse, Mapping) else raw, "sparse_topk_blocks", "index_topk_blocks")
    return Attention(
        kind="mla" if rank else "gqa",
        heads=heads,
        kv_heads=1 if rank else kv_heads,
        head_dim=head_dim,
        value_dim=_optional(raw, "v_head_dim") or None,
        kv_lora_rank=rank or None,
        q_lora_rank=_optional(raw, "q_lora_rank") or None,
        rope_head_dim=rope or None,
        qk_norm=norm if raw.get("use_qk_norm", True) else "none",
        full_layers=kinds.count("full"),
        sliding_layers=kinds.count("sliding"),
        window_tokens=_optional(raw, "sliding_window") or None,
        sparse_layers=kinds.count("sparse"),
        sparse_read_tokens=block * blocks or None,
        linear_layers=kinds.count("linear"),
    )


def _context(raw: Mapping[str, Any]) -> int | None:
    """The positions that vLLM takes the model to have: YaRN stretches those it was trained on."""
    held = _optional(raw, "max_position_embeddings", "n_positions")
    rope = raw.get("rope_parameters") or raw.get("rope_scaling")
    if isinstance(rope, Mapping) and rope.get("rope_type", rope.get("type")) == "yarn":
        factor, trained = rope.get("factor"), rope.get("original_max_position_embeddings", held)
        if isinstance(factor, int | float) and isinstance(trained, int) and 1 <= factor <= 10_000:
            held = max(held, int(trained * factor))
    return held or None


def _dense_width(raw: Mapping[str, Any], hidden: int) -> int:
    return _optional(raw, "dense_intermediate_size", "intermediate_size", "n_inner", "ffn_dim") or 4 * hidden


def _shared_width(raw: Mapping[str, Any]) -> int:
    width = _optional(raw, "shared_expert_intermediate_size", "shared_intermediate_size")
    number = _optional(raw, "n_shared_experts", "num_shared_experts", limit=1000)
    if width:
        return width * max(1, number)
    return number * _optional(raw, "moe_intermediate_size", "intermediate_size")


def _moe_layers(raw: Mapping[str, Any], layers: int) -> list[bool]:
    """Which layers have experts."""
    named = _flags(raw, "mlp_layer_types", layers)
    if named is not None:
        return [name == "sparse" for name in named]
    flags = _flags(raw, "moe_layer_freq", layers)
    if flags is not None:
        return [bool(flag) for flag in flags]
    first = _optional(raw, "first_k_dense_replace", limit=10_000)
    step = _optional(raw, "decoder_sparse_step", limit=10_000) or 1
    dense = raw.get("mlp_only_layers")
    skip = set(dense) if isinstance(dense, list) else set()
    return [index >= first and (index + 1) % step == 0 and index not in skip for index in range(layers)]


def _mtp(raw: Mapping[str, Any]) -> int:
    modules = _optional(raw, "num_nextn_predict_layers", "num_mtp_modules", limit=100)
    return modules * (_optional(raw, "mtp_transformer_layers", limit=100) or 1)
