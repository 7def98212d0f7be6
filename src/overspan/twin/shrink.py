"""From a real config.json to a twin's: small, and refused by the same layouts for the same reasons. Pure.

Counts that parallelism divides (heads, KV heads, experts) stay as they are. Widths become the smallest that the same
degrees up to 16 divide. What is only size (layers, vocabulary, context, hidden state) becomes small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from pydantic import Field

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, UnknownName

HIDDEN: Final = 64
HEAD_DIM: Final = 32
"""The CPU kernels want multiples of 32 (vLLM 0.32: cpu_moe.py output_alignment, cpu_attn.py head sizes)."""
LAYERS: Final = 4
"""Two a stage with two stages: a residual crosses a stage's edge, and a layer lies on each side of it."""
VOCABULARY: Final = 320
"""256 bytes and a few more; ids above the real bytes show that every row of the head counts."""
CONTEXT: Final = 4096
LARGEST_DEGREE: Final = 16
_SMALLEST_WIDTH: Final = 32
_FILLER: Final = 17
"""A prime above LARGEST_DEGREE: multiplying by it changes no divisibility that we keep."""


@dataclass(frozen=True)
class _Family:
    """What differs between architectures. `defaults` completes a config that states only sizes."""

    model_type: str
    experts: str | None = None
    widths: tuple[str, ...] = ("intermediate_size",)
    kept: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()


# Sources: transformers 5.19, configuration_*.py of each model type; the defaults of MiniMax-M2 from MiniMaxM2Config
# and from what vLLM 0.32 reads of the config (models/minimax_m2.py: rotary_dim, scoring_func, use_routing_bias).
FAMILIES: Final = {
    "LlamaForCausalLM": _Family("llama", kept=("attention_bias", "mlp_bias")),
    "MiniMaxM2ForCausalLM": _Family(
        "minimax_m2",
        experts="num_local_experts",
        kept=("rotary_dim", "scoring_func", "use_routing_bias", "use_qk_norm"),
        defaults=(
            ("rotary_dim", 64),
            ("scoring_func", "sigmoid"),
            ("use_routing_bias", True),
            ("rope_theta", 5_000_000),
            ("rms_norm_eps", 1e-6),
        ),
    ),
    "MixtralForCausalLM": _Family("mixtral", experts="num_local_experts", kept=("sliding_window",)),
    "Qwen3ForCausalLM": _Family("qwen3", kept=("attention_bias",)),
    "Qwen3MoeForCausalLM": _Family(
        "qwen3_moe",
        experts="num_experts",
        widths=("intermediate_size", "moe_intermediate_size"),
        kept=("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "attention_bias"),
    ),
}
_KEPT: Final = (
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts_per_tok",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "tie_word_embeddings",
)
_NEEDED: Final = ("hidden_size", "num_hidden_layers", "num_attention_heads")


class Twin(Frozen):
    """A twin before it is written. `extra` is what the engine reads and transformers would leave out."""

    architecture: str
    config: dict[str, Any]
    extra: dict[str, Any]
    shrunk: dict[str, tuple[int, int]] = Field(description="field -> real value, twin's value")
    notes: list[str] = Field(description="what of the real model the twin has not")


def shrink(real: dict[str, Any]) -> Twin:
    """The twin of a model, from its config.json.

    Raises:
        UnknownName: the architecture is not one that twins are made of.
        InputError: a field is missing or is no positive number; names it.
    """
    architecture = (real.get("architectures") or ["(none)"])[0]
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnknownName("architecture", str(architecture), list(FAMILIES), next="twins are made of those named here")
    full = dict(family.defaults) | real
    for field in (*_NEEDED, *family.widths, *((family.experts,) if family.experts else ())):
        _number(full, field)
    sizes = _sizes(full, family)
    kept = {name: full[name] for name in (*_KEPT, *family.kept) if full.get(name) is not None}
    if family.experts:
        kept[family.experts] = full[family.experts]
    config = {**kept, **sizes, "model_type": family.model_type, "bos_token_id": None, "pad_token_id": None}
    config["eos_token_id"] = VOCABULARY - 1
    _cut_lists(full, config)
    return Twin(
        architecture=architecture,
        config=config,
        extra={name: config[name] for name in family.kept if name in config},
        shrunk={name: (full[name], small) for name, small in sizes.items() if isinstance(full.get(name), int)},
        notes=_notes(full),
    )


def width(real: int) -> int:
    """The smallest useful width that the same degrees divide, up to LARGEST_DEGREE, as the real one."""
    small = math.lcm(*(degree for degree in range(1, LARGEST_DEGREE + 1) if real % degree == 0))
    while small < _SMALLEST_WIDTH:
        small *= _FILLER
    return small


def _sizes(full: dict[str, Any], family: _Family) -> dict[str, int]:
    head_dim = full.get("head_dim") or full["hidden_size"] // full["num_attention_heads"]
    sizes = {name: width(full[name]) for name in family.widths}
    sizes |= {
        "hidden_size": HIDDEN,
        "head_dim": HEAD_DIM,
        "num_hidden_layers": min(LAYERS, full["num_hidden_layers"]),
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
    }
    if full.get("rotary_dim"):
        sizes["rotary_dim"] = full["rotary_dim"] * HEAD_DIM // head_dim
    return sizes


def _cut_lists(full: dict[str, Any], config: dict[str, Any]) -> None:
    """A list with one entry a layer keeps the first layers' entries."""
    for name in ("layer_types", "attn_type_list"):
        if isinstance(full.get(name), list):
            config[name] = full[name][: config["num_hidden_layers"]]


def _notes(full: dict[str, Any]) -> list[str]:
    notes = []
    quantisation = full.get("quantization_config") or full.get("quant_method")
    if quantisation:
        method = quantisation.get("quant_method", "quantised") if isinstance(quantisation, dict) else quantisation
        notes.append(f"dequantised: the real weights are {method}, the twin's are fp32; their kernels are not proven")
    if full.get("num_mtp_modules") or full.get("num_nextn_predict_layers"):
        notes.append("without MTP modules: speculative decoding with them is not proven")
    return notes


def _number(config: dict[str, Any], field: str) -> None:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"config.json: '{field}' is {value!r}; it must be a whole number above 0")
