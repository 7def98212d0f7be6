"""Formats of weights: how many bits one parameter takes, its scales included."""

from __future__ import annotations

from typing import Final

from overspan.schema.errors import UnknownName

# bits = bits of the value + bits of a scale / values that share it.
BITS: Final[dict[str, float]] = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,  # one scale a tensor or channel
    "fp8_block": 8.0 + 32 / (128 * 128),  # https://huggingface.co/deepseek-ai/DeepSeek-V3: 128 x 128, fp32 scales
    "mxfp8": 8.0 + 8 / 32,  # OCP Microscaling Formats 1.0, section 5: 32 values, one E8M0 scale
    "mxfp4": 4.0 + 8 / 32,  # the same
    "nvfp4": 4.0 + 8 / 16,  # NVIDIA, "Introducing NVFP4": 16 values, one E4M3 scale
    "int8": 8.0,
}
# What the matrix product runs in; weight-only formats are expanded first.
COMPUTE: Final[dict[str, str]] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "mxfp8": "fp8",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
    "int8": "int8",
}


def bits(name: str) -> float:
    """Bits of one parameter.

    `int4_g128` is 4-bit integers, 128 of them sharing a 16-bit scale; `int4_g128_zp` has zero points too.

    Raises:
        UnknownName: no such format.
    """
    if name in BITS:
        return BITS[name]
    head, _, rest = name.partition("_g")
    group, _, zero_point = rest.partition("_")
    if head.startswith("int") and head[3:].isdigit() and group.isdigit() and int(group) > 0:
        width = int(head[3:])
        return width + (16 + (width if zero_point == "zp" else 0)) / int(group)
    raise UnknownName("weight format", name, BITS)


def bytes_of(name: str, parameters: int) -> int:
    """Size of some parameters in a format."""
    return round(parameters * bits(name) / 8)


def compute_format(name: str) -> str:
    """The format of the arithmetic that a weight format is made for."""
    return COMPUTE.get(name, "bf16")
