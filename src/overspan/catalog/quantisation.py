"""The quantisation of a checkpoint: from config.json, compressed-tensors, modelopt, AWQ, GPTQ, FP8 and MX formats."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from typing import Any

from overspan.catalog import formats
from overspan.schema.errors import ModelUnavailable
from overspan.schema.model import Quantisation

_Stored = tuple[str, tuple[int, int] | None]
"""The format of weights, and the values (output, input) that share a scale."""

# Their key for what stays as it was, by method.
_IGNORE_KEYS = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules")
_ALGORITHMS = {
    "nvfp4": ("nvfp4", (1, 16)),
    "nvfp4_awq": ("nvfp4", (1, 16)),
    "fp8": ("fp8", None),
    "fp8_pb_wo": ("fp8_block", (128, 128)),
    "mxfp8": ("mxfp8", (1, 32)),
    "mxfp4": ("mxfp4", (1, 32)),
}


def read(
    config: Mapping[str, Any], sidecar: Mapping[str, Any] | None = None, *, with_headers: bool = False
) -> Quantisation | None:
    """The quantisation of a model, or None when its weights are plain.

    Args:
        config: config.json, the text part.
        sidecar: hf_quant_config.json of modelopt, where there is one.
        with_headers: the headers of the weights tell each module's format: several are taken, told by the smallest.

    Raises:
        ModelUnavailable: it contradicts itself, or names no method.
    """
    own = config.get("quantization_config") or config.get("compression_config") or {}
    if not isinstance(own, Mapping):
        raise ModelUnavailable(f"config.json: quantization_config: expected keys and values, found {own!r:.60}")
    inner = sidecar.get("quantization") if sidecar else None
    beside = {"quant_method": "modelopt", **inner} if isinstance(inner, Mapping) else {}
    first = _parse(own, "config.json", with_headers=with_headers) if own else None
    second = _parse(beside, "hf_quant_config.json", with_headers=with_headers) if beside else None
    if first and second and first.format != second.format:
        raise ModelUnavailable(
            f"contradictory quantisation: config.json says {first.format}, hf_quant_config.json says {second.format}",
            next="keep the file that matches the weights",
        )
    return first or second


def _parse(data: Mapping[str, Any], file: str, *, with_headers: bool) -> Quantisation:
    method = str(data.get("quant_method", "")).lower()
    ignore: list[Any] = next((data[key] for key in _IGNORE_KEYS if isinstance(data.get(key), list)), [])
    cache = str(data.get("kv_cache_quant_algo", "")).lower() == "fp8" or data.get("kv_cache_scheme")
    if method in ("modelopt", "modelopt_fp4", "modelopt_mxfp8"):
        weights, block = _modelopt(data, file, with_headers=with_headers)
    elif method == "compressed-tensors":
        weights, block = _compressed_tensors(data, file, with_headers=with_headers)
    elif method in ("fp8", "mxfp8", "fbgemm_fp8"):
        weights, block = _fp8(data, method, file)
    elif method == "mxfp4":
        weights, block = "mxfp4", (1, 32)
    elif method in ("awq", "gptq", "awq_marlin", "gptq_marlin", "auto-round"):
        weights, block = _grouped(data, file)
    else:
        raise ModelUnavailable(
            f"{file}: quantization_config names {'the unknown method ' + method if method else 'no quant_method'}",
            next="known: fp8, fbgemm_fp8, mxfp8, mxfp4, modelopt, compressed-tensors, awq, gptq",
        )
    names = [str(item) for item in ignore]
    return Quantisation(method=method, format=weights, block=block, ignore=names, kv_format="fp8" if cache else None)


def _modelopt(data: Mapping[str, Any], file: str, *, with_headers: bool) -> _Stored:
    algorithm = str(data.get("quant_algo", "")).lower()
    layers = data.get("quantized_layers")
    if algorithm == "mixed_precision" and isinstance(layers, Mapping):
        names = {str(held.get("quant_algo", "")).lower() for held in layers.values() if isinstance(held, Mapping)}
        return _one_of({_ALGORITHMS[name] for name in names if name in _ALGORITHMS}, file, with_headers=with_headers)
    if algorithm not in _ALGORITHMS:
        raise ModelUnavailable(
            f"{file}: unknown quant_algo '{data.get('quant_algo')}'; known: {', '.join(_ALGORITHMS)}"
        )
    return _ALGORITHMS[algorithm]


def _one_of(found: set[_Stored], file: str, *, with_headers: bool) -> _Stored:
    """The format of the weights; of several the smallest, where the headers tell which module has which."""
    if len(found) == 1 or (found and with_headers):
        return min(found, key=lambda held: formats.bits(held[0]))
    said = ", ".join(sorted(name for name, _ in found)) or "formats that are not known here"
    raise ModelUnavailable(
        f"{file}: its layers mix {said}: counted from the headers of the weights only",
        next="give the folder with its *.safetensors",
    )


def _fp8(data: Mapping[str, Any], method: str, file: str) -> _Stored:
    block = data.get("weight_block_size")
    if method == "mxfp8" or block == [1, 32]:
        return "mxfp8", (1, 32)
    if block is None:
        return "fp8", None
    if isinstance(block, list) and len(block) == 2 and all(type(side) is int and side > 0 for side in block):
        return "fp8_block", (block[0], block[1])
    raise ModelUnavailable(f"{file}: weight_block_size is {block!r}: expected two whole numbers above 0")


def _grouped(data: Mapping[str, Any], file: str) -> _Stored:
    width, group = data.get("bits", data.get("w_bit")), data.get("group_size", data.get("q_group_size"))
    if not isinstance(width, int) or not isinstance(group, int) or width not in (2, 3, 4, 8):
        raise ModelUnavailable(
            f"{file}: bits is {width!r} and group_size {group!r}: expected whole numbers, 2 to 8 bits"
        )
    if group <= 0:  # -1: one scale a channel
        return ("int8" if width == 8 else f"int{width}_g4096"), None
    return f"int{width}_g{group}" + ("_zp" if data.get("zero_point") else ""), (1, group)


def _compressed_tensors(data: Mapping[str, Any], file: str, *, with_headers: bool) -> _Stored:
    groups = data.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ModelUnavailable(f"{file}: compressed-tensors without config_groups")
    found = {_scheme(group.get("weights"), file) for group in groups.values() if isinstance(group, Mapping)}
    return _one_of(found, file, with_headers=with_headers)


def _scheme(weights: Any, file: str) -> _Stored:
    if not isinstance(weights, Mapping):
        raise ModelUnavailable(f"{file}: a config group says nothing of its weights")
    width, kind, group = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    block = weights.get("block_structure")
    if kind == "float" and width == 4:
        return ("mxfp4", (1, 32)) if group == 32 else ("nvfp4", (1, 16))
    if kind == "float" and width == 8:
        if isinstance(block, list) and len(block) == 2:
            return "fp8_block", (int(block[0]), int(block[1]))
        return ("mxfp8", (1, 32)) if group == 32 else ("fp8", None)
    if kind == "int" and isinstance(width, int) and isinstance(group, int) and group > 0:
        return f"int{width}_g{group}" + ("" if weights.get("symmetric", True) else "_zp"), (1, group)
    if kind == "int" and width == 8:
        return "int8", None
    if kind == "int" and isinstance(width, int) and 2 <= width < 8:
        return f"int{width}_g4096", None  # one scale a channel
    raise ModelUnavailable(f"{file}: weights of type {kind!r} with {width!r} bits are no format known here")


def ignored(patterns: list[str], path: str) -> bool:
    """Whether a module stays as it was: a name, part of a path, a glob, or `re:` and an expression."""
    return any(_matches(pattern, path) for pattern in patterns)


def _matches(pattern: str, path: str) -> bool:
    if pattern.startswith("re:"):
        expression = pattern[3:]
        # A checkpoint is untrusted: no expression whose time explodes (repeated groups, many stars) is ever run.
        if len(expression) > 200 or re.search(r"\)\s*[*+{?]", expression) or len(re.findall(r"[*+{]", expression)) > 4:
            return False
        try:
            return re.match(expression, path) is not None
        except re.error:
            return False
    if "*" in pattern or "?" in pattern:
        names = (path, f"{path}.weight", path.split("model.", 1)[-1])
        # A pattern may end at a block: `model.layers.*.self_attn` holds its projections too.
        return any(fnmatch.fnmatchcase(name, end) for name in names for end in (pattern, f"{pattern}.*"))
    return f".{pattern}." in f".{path}."
