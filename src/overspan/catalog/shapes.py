"""The shape of a model, read from a config.json that may be anything: every size is checked before it is used."""

from collections.abc import Mapping
from typing import Any, Final

from overspan.catalog import kinds
from overspan.schema.base import Frozen
from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import Attention

_LIMIT: Final = 10**8
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float": "fp32", "half": "fp16"}
# The feed-forward part of these has two matrices, not three (no gate). Source: their classes in transformers 5.
_UNGATED: Final = frozenset(
    {"gpt2", "gpt_neox", "opt", "phi", "starcoder2", "nemotron", "falcon", "bloom", "gptj", "mpt", "gpt_bigcode"}
)
# Counted right by the general rules; source: their classes in transformers 5.
_GATED: Final = """
    llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe minimax_m2 minimax_m3_vl minimax_m3_vl_text deepseek_v2
    deepseek_v3 kimi_k2 glm4 glm4_moe gemma gemma2 gemma3 gemma3_text gpt_oss granite olmo olmo2 phi3 smollm3 cohere
    ernie4_5 ernie4_5_moe hunyuan_v1_dense seed_oss hunyuan_v1_moe llama4 llama4_text phimoe cohere2 dbrx olmoe dots1
    exaone4 qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe deepseek_v32 stablelm internlm2 mimo baichuan chatglm granitemoe
"""
KNOWN: Final = frozenset(_GATED.split()) | _UNGATED
# Each head's queries and keys are normalised by themselves, or all heads together (a collective in TP).
_NORM_HEAD: Final = frozenset(
    {"qwen3", "qwen3_moe", "glm4_moe", "gemma3", "gemma3_text", "minimax_m3_vl", "minimax_m3_vl_text"}
)
_NORM_TENSOR: Final = frozenset({"minimax_m2", "olmo2"})


# Canonical keys of transformers first, then the same under other names.
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "model_dim", "dim"),
    "vocab_size": ("vocab_size", "padded_vocab_size", "n_vocab"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": (
        "num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "kv_n_heads", "multi_query_group_num",
    ),
    "head_dim": ("head_dim", "attention_head_dim", "head_size", "kv_channels", "d_head"),
    "intermediate_size": (
        "dense_intermediate_size", "intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", "n_inner",
        "ffn_dim",
    ),
    "num_experts": (
        "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts", "n_experts",
    ),
    "num_experts_per_tok": (
        "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "moe_k",
        "num_selected_experts", "experts_top_k", "top_k_experts",
    ),
    "moe_intermediate_size": (
        "moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size", "intermediate_size",
        "ffn_hidden_size",
    ),
}  # fmt: skip
# Where the text part of a config may stand, and parts whose keys belong to the whole.
TEXT: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "text_model")
_PARTS: Final = ("attn_config", "ffn_config")


# Embedding and head are one where the config does not say; its class in transformers leaves the default, true, there.
_TIED: Final = (
    "gemma", "cohere", "gpt2", "gpt_bigcode", "opt", "bloom", "mpt", "falcon", "smollm3", "granite", "starcoder2",
)  # fmt: skip
# Positions are learned, one vector each; OPT keeps two more. Source: their classes in transformers 5.
_POSITIONS: Final = {"gpt2": 0, "gpt_bigcode": 0, "opt": 2}


class Shape(Frozen):
    """Sizes of one model, as its config.json gives them."""

    raw: dict[str, Any]
    architecture: str
    dtype: str
    layers: int
    hidden: int
    vocab: int
    positions: int
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
    kinds: list[str]
    mtp_layers: int
    warnings: list[str]


def read(config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json gives.

    Raises:
        ModelUnavailable: a size is missing, of the wrong type or absurd; names the key.
    """
    raw, family, architecture = _names(config)
    layers = _size(raw, *KEYS["num_hidden_layers"], limit=10_000)
    hidden = _size(raw, *KEYS["hidden_size"])
    held = kinds.of_layers(raw, layers)
    experts = _optional(raw, *KEYS["num_experts"])
    return Shape(
        raw=raw,
        architecture=architecture,
        dtype=_dtype(raw, config),
        layers=layers,
        hidden=hidden,
        vocab=_size(raw, *KEYS["vocab_size"]),
        tied=bool(raw.get("tie_word_embeddings", config.get("tie_word_embeddings", family.startswith(_TIED)))),
        positions=(_context(raw) or 0) + _POSITIONS[family] if family in _POSITIONS else 0,
        max_context=_context(raw),
        attention=_attention(raw, family, hidden, held),
        intermediate=_dense_width(raw, hidden),
        mlp_matrices=2 if family in _UNGATED else 3,
        experts=experts,
        experts_per_token=_size(raw, *KEYS["num_experts_per_tok"]) if experts else 0,
        expert_intermediate=_size(raw, *KEYS["moe_intermediate_size"]) if experts else 0,
        shared_intermediate=shared_width(raw) if experts else 0,
        moe_name="block_sparse_moe" if family.startswith(("minimax", "mixtral")) else "mlp",
        is_moe=kinds.with_experts(raw, layers) if experts else [False] * layers,
        kinds=held,
        mtp_layers=_mtp(raw),
        warnings=_warnings(architecture, family, held),
    )


def _names(config: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """The text part of a config, the model's family and its architecture."""
    raw = text_part(config)
    family = str(raw.get("model_type") or config.get("model_type") or "unknown")
    architectures = config.get("architectures") or raw.get("architectures")
    return raw, family, str(architectures[0]) if isinstance(architectures, list) and architectures else family


def text_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the language model: of the whole config, or of the part that is nested for it."""
    raw = dict(config)
    while (inner := next((raw[name] for name in TEXT if isinstance(raw.get(name), Mapping)), None)) is not None:
        raw = dict(inner)
    for part in _PARTS:
        raw = {**(raw[part] if isinstance(raw.get(part), Mapping) else {}), **raw}
    return raw


def _warnings(architecture: str, family: str, held: list[str]) -> list[str]:
    """What the general rules may get wrong."""
    found = [] if family in KNOWN else [f"unknown architecture '{architecture}' ({family}): counted by general rules"]
    if "linear" in held:
        found.append("layers with linear attention are counted by general rules")
    return found


def _number(value: Any, key: str, low: int, high: int) -> int:
    if isinstance(value, list) and value and all(item == value[0] for item in value):
        value = value[0]  # Hunyuan writes one number a layer
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ModelUnavailable(f"config.json: '{key}' must be a whole number from {low} to {high} (given: {value!r})")
    return value


def _size(raw: Mapping[str, Any], *keys: str, limit: int = _LIMIT) -> int:
    for key in keys:
        if raw.get(key) is not None:
            return _number(raw[key], key, 1, limit)
    raise ModelUnavailable(
        f"config.json: no '{keys[0]}'" + (f" (nor {', '.join(keys[1:])})" if keys[1:] else ""),
        next="is this the config.json of a language model? With its *.safetensors beside it the headers are counted",
    )


def _optional(raw: Mapping[str, Any], *keys: str, limit: int = _LIMIT) -> int:
    for key in keys:
        if raw.get(key) is not None:
            return _number(raw[key], key, 0, limit)
    return 0


def _dtype(raw: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    given = raw.get("dtype") or raw.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    return _DTYPES.get(str(given).removeprefix("torch."), "bf16")


def _attention(raw: Mapping[str, Any], family: str, hidden: int, held: list[str]) -> Attention:
    heads = _size(raw, *KEYS["num_attention_heads"], limit=10_000)
    kv_heads = _optional(raw, *KEYS["num_key_value_heads"], limit=10_000) or heads
    # Falcon and StarCoder: one head of keys and values for all, unless a number of them is used.
    kv_heads = 1 if raw.get("multi_query") is True and not raw.get("new_decoder_architecture") else kv_heads
    rank = _optional(raw, "kv_lora_rank")
    rope = _optional(raw, "qk_rope_head_dim")
    head_dim = _optional(raw, *KEYS["head_dim"]) or max(1, hidden // heads)
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
        full_layers=held.count("full"),
        sliding_layers=held.count("sliding"),
        window_tokens=_optional(raw, "sliding_window", "attention_chunk_size") or None,
        sparse_layers=held.count("sparse"),
        sparse_read_tokens=block * blocks or _optional(raw, "index_topk") or None,
        linear_layers=held.count("linear"),
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
    return _optional(raw, *KEYS["intermediate_size"]) or 4 * hidden


def shared_width(raw: Mapping[str, Any]) -> int:
    """Width of all shared experts of a layer together; 0 where there is none."""
    width = _optional(raw, "shared_expert_intermediate_size", "shared_intermediate_size")
    number = _optional(
        raw, "n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts", limit=1000
    )
    if str(raw.get("model_type")).startswith("llama4"):
        number = 1  # in each layer of experts; its config does not say so (transformers, Llama4TextMoe)
    if width:
        return width * max(1, number)
    return number * _optional(raw, "moe_intermediate_size", "intermediate_size")


def _mtp(raw: Mapping[str, Any]) -> int:
    modules = _optional(raw, "num_nextn_predict_layers", "num_mtp_modules", limit=100)
    return modules * (_optional(raw, "mtp_transformer_layers", limit=100) or 1)
