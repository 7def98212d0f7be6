"""The formats that a twin's weights are written in, and the one that stands for a real model's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from overspan.catalog.quantisation import ignored
from overspan.schema.model import Quantisation

Format = Literal["fp32", "bf16", "fp8_block", "nvfp4"]
PLAIN: Final[tuple[Format, ...]] = ("fp32", "bf16")
# By format: which methods' checkpoints are written. Sources, vLLM 0.26 and 0.32: layers/quantization/fp8.py,
# modelopt.py (ModelOptNvFp4Config) and compressed_tensors/schemes/compressed_tensors_w4a4_nvfp4.py.
_METHODS: Final[Mapping[str, tuple[str, ...]]] = {
    "fp8_block": ("fp8",),
    "nvfp4": ("modelopt", "modelopt_fp4", "compressed-tensors"),
}
# Embeddings, norms and routers are quantised by no engine; vLLM builds the router's layer without a quantisation, and
# what stands around the layer of an MTP module too (0.26 and 0.32: models/deepseek_mtp.py).
_NEVER: Final = re.compile(r"embed_tokens|norm|eh_proj|shared_head|\.gate\.weight$|e_score_correction_bias|\.bias$")

# Methods that quantise the LM head too, unless the config says not to. Source, vLLM 0.32: modelopt.py has it among its
# layers, fp8.py has not, and to compressed-tensors' usual target `Linear` it is none (find_matched_target).
_WITH_HEAD: Final = ("modelopt", "modelopt_fp4")


def written_as(real: Quantisation | None) -> tuple[Format, str | None]:
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


def block_of(weights: Format, real: Quantisation | None) -> int:
    """Values along the longer side of a block, which no split may cut; 1 where weights are plain."""
    return max(real.block) if real is not None and real.block is not None and weights not in PLAIN else 1


def stated(real: Mapping[str, Any], weights: Format) -> dict[str, Any] | None:
    """The quantization_config of the twin: the real one, with what the engine needs and the catalogue leaves out."""
    own = real.get("quantization_config") or real.get("compression_config")
    if weights in PLAIN or not isinstance(own, Mapping):
        return None
    if weights == "fp8_block":
        return {"activation_scheme": "dynamic", "fmt": "e4m3", **own}
    if own.get("quant_method") == "compressed-tensors":
        return dict(own)
    return {"group_size": 16, **own}


def quantised(names: Iterable[str], ignore: list[str], method: str) -> list[str]:
    """Of a checkpoint's matrices those that are quantised.

    Args:
        names: of the tensors with two dimensions, as in the checkpoint.
        ignore: the modules that the real model's config leaves as they were.
        method: its `quant_method`.
    """
    left = ignore if method in _WITH_HEAD else [*ignore, "lm_head"]
    return [
        name
        for name in names
        if name.endswith(".weight") and not _NEVER.search(name) and not ignored(left, name.removesuffix(".weight"))
    ]
