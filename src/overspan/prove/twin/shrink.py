"""From a real config.json to a twin's: small, and refused by the same layouts for the same reasons. Pure.

Counts that parallelism divides (heads, KV heads, experts) stay as they are. Widths, and the heads of MLA, whose
projections are most of such a model, become the smallest that the same degrees up to 16 divide, in whole quantisation
blocks where the real model's are whole. What is only size (layers, vocabulary, context, hidden state) becomes small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field

from overspan.catalog import quantisation
from overspan.catalog.families import FAMILIES, MTP_FIELD, Family
from overspan.prove.twin.fields import FIELDS, check
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.model import Quantisation

Format = Literal["fp32", "bf16", "fp8_block", "nvfp4"]
PLAIN: Final[tuple[Format, ...]] = ("fp32", "bf16")
# By format: which methods' checkpoints are written. Sources, vLLM 0.26 and 0.32: layers/quantization/fp8.py,
# modelopt.py (ModelOptNvFp4Config) and compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py.
_METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "fp8_block": ("fp8",),
    "nvfp4": ("modelopt", "modelopt_fp4", "compressed-tensors"),
}

HIDDEN: Final = 64
HEAD_DIM: Final = 32
"""The CPU kernels want multiples of 32 (vLLM 0.32: cpu_moe.py output_alignment, cpu_attn.py head sizes)."""
QUANTISED_HIDDEN: Final = 128
"""One block of FP8-block; vLLM's Marlin kernels for NVFP4 want multiples of 64 (0.26: marlin_utils_fp4.py)."""
LAYERS: Final = 4
"""Two a stage with two stages: a residual crosses a stage's edge, and a layer lies on each side of it. A twin that goes
through longer pipelines has one for each stage."""
VOCABULARY: Final = 320
"""256 bytes and a few more; ids above the real bytes show that every row of the head counts."""
CONTEXT: Final = 4096
LARGEST_DEGREE: Final = 16
_DEGREES: Final = range(1, LARGEST_DEGREE + 1)
_SMALLEST_WIDTH: Final = 32
_FILLER: Final = 17
"""A prime above LARGEST_DEGREE: multiplying by it changes no divisibility that we keep."""


class Twin(Frozen):
    """A twin before it is written. `extra` is what the engine reads and transformers would leave out."""

    architecture: str
    config: dict[str, Any]
    extra: dict[str, Any]
    shrunk: dict[str, tuple[int, int]] = Field(description="field -> real value, twin's value")
    notes: list[str] = Field(description="what of the real model the twin has not")
    weights: Format = "fp32"
    quantization_config: dict[str, Any] | None = None
    mtp_modules: int = Field(0, description="MTP modules in the checkpoint, behind the last layer")
    ignore: list[str] = Field(default_factory=list, description="modules that the real model leaves unquantised")


def shrink(real: dict[str, Any], weights: Literal["real"] | Format = "fp32", stages: int = 1) -> Twin:
    """The twin of a model, from its config.json.

    Args:
        real: the config.json.
        weights: the format that the twin is written in; `real` is the real model's own, or BF16 where that is not
            written. FP8-block and NVFP4 are written only for a model that has them.
        stages: of the longest pipeline that it is to go through.

    Raises:
        UnknownName: the architecture is not one that twins are made of.
        InputError: a field is missing or is no positive number, or the format is not the model's; names it.
    """
    named = real.get("architectures")
    architecture = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else "(none)"
    family = FAMILIES.get(architecture)
    if architecture in FIELDS.gpu_only:
        raise InputError(
            f"no twin is made of {architecture}: {FIELDS.gpu_only[architecture]}",
            next="after launch, overspan verify RUN proves the endpoint",
        )
    if family is None:
        raise UnknownName("architecture", architecture, list(FAMILIES), next="twins are made of those named here")
    full = family.defaults | {name: value for name, value in real.items() if value is not None}
    _sound(full, family)
    own = quantisation.read(real)
    chosen, notes = _format(own, weights)
    _divisible(full, family, _block_of(chosen, own))
    sizes = _sizes(full, family, chosen, _block_of(chosen, own))
    sizes["num_hidden_layers"] = min(max(LAYERS, stages), full["num_hidden_layers"])
    kept = {name: full[name] for name in (*FIELDS.kept, *family.kept) if full.get(name) is not None}
    if family.experts:
        kept[family.experts] = full[family.experts]
    config = {**kept, **sizes, "model_type": family.model_type, "bos_token_id": None, "pad_token_id": None}
    config["eos_token_id"] = VOCABULARY - 1
    if sizes.get("rotary_dim"):
        # transformers before 5.19 knows no rotary_dim and turns whole heads; this name is known to all.
        stated_rope = {"rope_type": "default", "rope_theta": full["rope_theta"], **(full.get("rope_parameters") or {})}
        config["rope_parameters"] = stated_rope | {"partial_rotary_factor": config["rotary_dim"] / config["head_dim"]}
    _cut_lists(full, config)
    return Twin(
        architecture=architecture,
        config=config,
        extra={name: config[name] for name in family.kept if name in config},
        shrunk={name: (full[name], small) for name, small in sizes.items() if isinstance(full.get(name), int)},
        notes=[*notes, *_missing(architecture, full)],
        mtp_modules=(full.get(MTP_FIELD) or 0) if family.mtp else 0,
        weights=chosen,
        quantization_config=_stated(real, chosen),
        ignore=own.ignore if own and chosen not in PLAIN else [],
    )


def width(real: int, block: int = 1) -> int:
    """The smallest useful width that the same degrees divide, up to LARGEST_DEGREE, as the real one.

    Args:
        real: the real width.
        block: values that share a scale: the parts of both widths hold whole blocks at the same degrees.
    """
    small = math.lcm(_alike(real), *(degree * block for degree in _DEGREES if real % (degree * block) == 0))
    while small < _SMALLEST_WIDTH:
        small *= _FILLER
    return small


def _alike(count: int) -> int:
    """The smallest number that is divided by the same degrees."""
    return math.lcm(*(degree for degree in _DEGREES if count % degree == 0))


def _format(own: Quantisation | None, weights: Literal["real"] | Format) -> tuple[Format, list[str]]:
    """The format to write, and what is to be said of it."""
    as_real, note = _written_as(own)
    if weights == "real":
        return as_real, [note] if note else []
    if weights in PLAIN:
        held = f"the real weights are {own.format} ({own.method}), the twin's are {weights}" if own else ""
        return weights, [f"dequantised: {held}; their kernels are not proven"] if own else []
    if weights != as_real:
        has = f"{own.format} ({own.method})" if own else "plain"
        raise InputError(
            f"the model's weights are {has}: no twin in {weights} can be made of it", next=f"take {as_real}"
        )
    return weights, []


def _written_as(real: Quantisation | None) -> tuple[Format, str | None]:
    """The format of a twin that is stored as the real model is, and a note where it cannot be.

    Args:
        real: the real model's quantisation; None where its weights are plain.
    """
    if real is None:
        return "bf16", None
    if real.method in _METHODS.get(real.format, ()):
        return ("nvfp4" if real.format == "nvfp4" else "fp8_block"), None
    return (
        "bf16",
        f"dequantised: {real.method} checkpoints of {real.format} are not written; their kernels are not proven",
    )


def _block_of(weights: Format, real: Quantisation | None) -> int:
    """Values along the longer side of a block, which no split may cut; 1 where weights are plain."""
    return max(real.block) if real is not None and real.block is not None and weights not in PLAIN else 1


def _stated(real: Mapping[str, Any], weights: Format) -> dict[str, Any] | None:
    """The quantization_config of the twin: the real one, with what the engine needs and the catalogue leaves out."""
    own = real.get("quantization_config") or real.get("compression_config")
    if weights in PLAIN or not isinstance(own, Mapping):
        return None
    if weights == "fp8_block":
        return {"activation_scheme": "dynamic", "fmt": "e4m3", **own}
    if own.get("quant_method") == "compressed-tensors":
        return dict(own)
    return {"group_size": 16, **own}


def _sizes(full: dict[str, Any], family: Family, weights: Format, block: int) -> dict[str, int]:
    real_head = full.get("head_dim") or full["hidden_size"] // full["num_attention_heads"]
    # Attention may be quantised too: with the real width of a head its blocks are cut where the real ones are.
    head_dim = HEAD_DIM if weights in PLAIN else real_head
    sizes = {name: width(full[name], block) for name in family.widths}
    hidden = HIDDEN if weights in PLAIN else QUANTISED_HIDDEN
    sizes |= {
        "hidden_size": math.lcm(hidden, full["num_attention_heads"]) if family.whole_heads else hidden,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
    }
    sizes |= {name: min(small, full[name]) for name, small in family.few.items() if full.get(name) is not None}
    if family.mla:
        # Every head has keys and values of its own.
        heads = _alike(full["num_attention_heads"])
        sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads}
    else:
        sizes["head_dim"] = head_dim
    if full.get("rotary_dim") and "rotary_dim" in family.kept:
        sizes["rotary_dim"] = full["rotary_dim"] * head_dim // real_head
    return sizes


def _cut_lists(full: dict[str, Any], config: dict[str, Any]) -> None:
    """A list with one entry a layer keeps the first layers' entries."""
    for name in ("layer_types", "attn_type_list"):
        if isinstance(full.get(name), list):
            config[name] = full[name][: config["num_hidden_layers"]]


def _missing(architecture: str, full: dict[str, Any]) -> list[str]:
    if full.get("num_mtp_modules"):
        # vLLM 0.26 and 0.32: minimax_m2.py skips `layers.<past the last>.`; no MTP class of it is in the registry.
        return ["without MTP modules: vLLM drops those of MiniMax-M2 when it loads, so there is nothing to prove"]
    if full.get(MTP_FIELD) and FAMILIES[architecture].mtp is None:
        return [f"without MTP modules: none of {architecture} are known; speculative decoding with them is not proven"]
    return []


def _divisible(full: dict[str, Any], family: Family, block: int) -> None:
    """Raises InputError where the real model could not be: names the field, and the nearest that would do."""
    parts = [(name, "a block of its quantisation", block) for name in family.widths]
    if full.get("num_key_value_heads"):
        parts.append(("num_attention_heads", "num_key_value_heads", full["num_key_value_heads"]))
    if family.experts and full.get("n_group"):
        parts.append((family.experts, "n_group", full["n_group"]))
    if not full.get("head_dim") and not family.mla:
        parts.append(("hidden_size", "num_attention_heads", full["num_attention_heads"]))
    for field, what, part in parts:
        if full[field] % part:
            below = full[field] // part * part
            near = f"{below} and {below + part}" if below else str(part)
            raise InputError(f"config.json: {what} ({part}) does not divide '{field}' ({full[field]}); nearest: {near}")


def _sound(full: dict[str, Any], family: Family) -> None:
    """Raises InputError where a field is not of the kind that is reckoned with: names it."""
    for field in (*FIELDS.needed, *family.widths, *((family.experts,) if family.experts else ())):
        _number(full, field)
    for least, counted in enumerate((FIELDS.from_0, FIELDS.above_0)):
        for field in counted:
            if full.get(field) is not None:
                _number(full, field, least)
    check(full, (*FIELDS.kept, *family.kept))
    chosen, among = full.get("num_experts_per_tok") or 1, full[family.experts] if family.experts else None
    if among is not None and chosen > among:
        raise InputError(f"config.json: 'num_experts_per_tok' is {chosen}, and '{family.experts}' {among}")
    if (full.get("topk_group") or 1) > (full.get("n_group") or math.inf):
        raise InputError(f"config.json: 'topk_group' is {full['topk_group']}, and 'n_group' {full['n_group']}")


def _number(config: dict[str, Any], field: str, least: int = 1) -> None:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        wanted = f"a whole number {'above 0' if least else 'from 0 on'}"
        raise InputError(f"config.json: '{field}' is {repr(value)[:80]}; it must be {wanted}")
