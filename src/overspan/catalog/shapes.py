"""The shape of a model, read from a config.json that may be anything: every size is checked before it is used."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from overspan.catalog import files, kinds
from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import Attention, ModelSpec
from overspan.schema.yamlio import plain

_LIMIT: Final = 10**8
_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float": "fp32", "half": "fp16"}


def _known() -> dict[str, Any]:
    """architectures.yaml, each list of words as a tuple."""
    data = plain(files.text("architectures.yaml"))
    data["keys"] = {key: tuple(names.split()) for key, names in data["keys"].items()}
    return {name: tuple(held.split()) if isinstance(held, str) else held for name, held in data.items()}


_ABOUT: Final = _known()
KEYS: Final[dict[str, tuple[str, ...]]] = _ABOUT["keys"]
"""Canonical keys of transformers, each with the names that the same has elsewhere."""
KNOWN: Final = frozenset(_ABOUT["gated"] + _ABOUT["ungated"])
"""Types of models that are counted right."""
# Keys of a length, the shortest counts, and rules whose stated length is stretched already. Source: vLLM 0.32,
# transformers_utils/model_arch_config_convertor.py and config/model.py.
_LENGTHS: Final = ("max_seq_len", "seq_length", "max_sequence_length", "max_seq_length", "seq_len")
_OWN_LENGTH: Final = ("su", "longrope", "llama3", "deepseek_llama_scaling")
# Where the text part of a config may stand, and parts whose keys belong to the whole.
TEXT: Final = ("text_config", "llm_config", "language_config", "thinker_config", "language_model", "text_model")
_PARTS: Final = ("attn_config", "ffn_config")


class Shape(NamedTuple):
    """A model as its config.json gives it, none of its weights counted yet, and what it takes to count them."""

    raw: dict[str, Any]
    spec: ModelSpec
    positions: int
    mlp_matrices: int
    moe_name: str
    is_moe: list[bool]
    kinds: list[str]


def read(name: str, config: Mapping[str, Any]) -> Shape:
    """The shape that a config.json gives.

    Raises:
        ModelUnavailable: a size is missing, of the wrong type or absurd; names the key.
    """
    raw, family, architecture = _names(config)
    layers = _size(raw, *KEYS["num_hidden_layers"], limit=10_000)
    hidden = _size(raw, *KEYS["hidden_size"])
    held = kinds.of_layers(raw, layers)
    experts = _optional(raw, *KEYS["num_experts"])
    is_moe = kinds.with_experts(raw, layers) if experts else [False] * layers
    tied = raw.get("tie_word_embeddings", config.get("tie_word_embeddings", family.startswith(_ABOUT["tied"])))
    spec = ModelSpec(
        name=name,
        architecture=architecture,
        dtype=_dtype(raw, config),
        layers=layers,
        hidden=hidden,
        vocab=_size(raw, *KEYS["vocab_size"]),
        tied_embeddings=bool(tied),
        max_context=positions(raw),
        attention=_attention(raw, family, hidden, held),
        intermediate=_optional(raw, *KEYS["intermediate_size"]) or 4 * hidden,
        experts=experts,
        experts_per_token=_size(raw, *KEYS["num_experts_per_tok"]) if experts else 0,
        expert_intermediate=_size(raw, *KEYS["moe_intermediate_size"]) if experts else 0,
        shared_expert_intermediate=shared_width(raw) if experts else 0,
        moe_layers=sum(is_moe),
        mtp_layers=_mtp(raw),
        modules=[],
        warnings=_warnings(architecture, family, held),
    )
    return Shape(
        raw,
        spec,
        positions=(spec.max_context or 0) + _ABOUT["positions"][family] if family in _ABOUT["positions"] else 0,
        mlp_matrices=2 if family in _ABOUT["ungated"] else 3,
        moe_name="block_sparse_moe" if family.startswith(("minimax", "mixtral")) else "mlp",
        is_moe=is_moe,
        kinds=held,
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
    norm = "tensor" if family in _ABOUT["norm_tensor"] else "head" if family in _ABOUT["norm_head"] else "none"
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


def positions(raw: Mapping[str, Any]) -> int | None:
    """The longest context that vLLM takes the model to have, its rope scaling counted; None where no key tells.

    Older releases of vLLM stretch by YaRN what the model was trained on, newer ones take the stated length as
    stretched: the longer of the two. Source: vllm/config/model.py of 0.26 and 0.32, _get_and_verify_max_len.
    """
    held = [_optional(raw, "max_position_embeddings"), _optional(raw, "n_positions")]
    more = [_plain_size(raw.get(key)) for key in _LENGTHS]
    longest = _plain_size(raw.get("model_max_length")) or min(filter(None, held + more), default=0)
    rope = raw.get("rope_parameters") or raw.get("rope_scaling")
    rope = rope if isinstance(rope, Mapping) and "gemma3" not in str(raw.get("model_type")) else {}
    rules = [rope, *(rule for rule in rope.values() if isinstance(rule, Mapping))]
    return max((_stretched(rule, longest) for rule in rules), default=longest) or None


def _plain_size(value: Any) -> int:
    """A length under a key that some configs use for another thing: 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LIMIT else 0


def _stretched(rule: Mapping[str, Any], longest: int) -> int:
    """The length after one rule of rope scaling."""
    factor, kind = rule.get("factor"), rule.get("rope_type", rule.get("type"))
    if kind in _OWN_LENGTH or not isinstance(factor, int | float) or not 1 <= factor <= 10_000:
        return longest
    trained = rule.get("original_max_position_embeddings", longest) if str(kind).endswith("yarn") else longest
    return max(longest, int(trained * factor)) if isinstance(trained, int) else longest


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
