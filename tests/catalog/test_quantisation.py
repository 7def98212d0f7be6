"""Each way in which a checkpoint is quantised, as its headers hold it; and a config that is not that of its weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import accounting, models
from overspan.schema.errors import ModelUnavailable
from support.hollow import Tensors as Parts
from support.hollow import write_weights

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 1,
    "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 4096, "vocab_size": 3200,
    "tie_word_embeddings": False,
}  # fmt: skip
# Outputs and inputs of a layer's matrices.
SHAPES = {
    "self_attn.q_proj": (1024, 1024), "self_attn.k_proj": (256, 1024), "self_attn.v_proj": (256, 1024),
    "self_attn.o_proj": (1024, 1024), "mlp.gate_proj": (4096, 1024), "mlp.up_proj": (4096, 1024),
    "mlp.down_proj": (1024, 4096),
}  # fmt: skip


def gptq(out: int, inputs: int, bits: int = 4, group: int = 128) -> Parts:
    zeros = ("I32", [inputs // group, out * bits // 32])
    scales = ("F16", [inputs // group, out])
    return {
        "qweight": ("I32", [inputs * bits // 32, out]),
        "qzeros": zeros,
        "scales": scales,
        "g_idx": ("I32", [inputs]),
    }


def awq(out: int, inputs: int) -> Parts:
    return {**gptq(out, inputs), "qweight": ("I32", [inputs, out // 8])}


def packed(out: int, inputs: int, bits: int = 4, group: int = 128) -> Parts:
    held = {"weight_packed": ("I32", [out, inputs * bits // 32]), "weight_scale": ("BF16", [out, inputs // group])}
    return {**held, "weight_shape": ("I64", [2])}


def nvfp4(out: int, inputs: int) -> Parts:
    held = {"weight_packed": ("U8", [out, inputs // 2]), "weight_scale": ("F8_E4M3", [out, inputs // 16])}
    return {**held, "weight_global_scale": ("F32", [1]), "input_global_scale": ("F32", [1])}


def fp8(out: int, inputs: int) -> Parts:
    return {"weight": ("F8_E4M3", [out, inputs]), "weight_scale": ("BF16", [out, 1])}


def int8(out: int, inputs: int) -> Parts:
    return {"weight": ("I8", [out, inputs]), "weight_scale": ("BF16", [out, 1])}


def groups(*weights: dict[str, Any]) -> dict[str, Any]:
    held = {f"group_{index}": {"weights": each, "targets": ["Linear"]} for index, each in enumerate(weights)}
    return {"quant_method": "compressed-tensors", "config_groups": held, "ignore": ["lm_head"]}


def folder_of(tmp_path: Path, quantised: dict[str, Any], parts: dict[str, Parts]) -> tuple[Path, int]:
    """The model's folder, and the bytes of its tensors."""
    tensors: Parts = {f"{name}.weight": ("BF16", [3200, 1024]) for name in ("model.embed_tokens", "lm_head")}
    for name, held in parts.items():
        tensors |= {f"model.layers.0.{name}.{part}": tensor for part, tensor in held.items()}
    size = write_weights(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quantised}))
    return tmp_path, size


INT4 = {"num_bits": 4, "type": "int", "group_size": 128}
LINEAR = sum(out * inputs for out, inputs in SHAPES.values())


@pytest.mark.parametrize(
    ("config", "make", "name"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, gptq, "int4_g128"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, lambda o, i: gptq(o, i, 8), "int8_g128"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, lambda o, i: gptq(o, i, 3), "int3_g128"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, lambda o, i: gptq(o, i, 4, i), None),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, awq, "int4_g128"),
        (groups(INT4), packed, "int4_g128"),
        (groups({**INT4, "num_bits": 8}), lambda o, i: packed(o, i, 8), "int8_g128"),
        (groups({**INT4, "group_size": None}), lambda o, i: packed(o, i, 4, i), None),
        (groups({"num_bits": 8, "type": "int", "group_size": None}), int8, "int8"),
        (groups({"num_bits": 4, "type": "float", "group_size": 16}), nvfp4, "nvfp4"),
        (groups({"num_bits": 8, "type": "float"}), fp8, "fp8"),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, fp8, "fp8"),
    ],
)
def test_headers_hold_every_parameter(config: dict[str, Any], make: Any, name: str | None, tmp_path: Path) -> None:
    folder, size = folder_of(tmp_path, config, {path: make(*shape) for path, shape in SHAPES.items()})
    spec = models.from_folder(folder)
    assert spec.parameters_of("attention", "mlp") == LINEAR
    assert spec.weight_bytes == size
    assert name in (None, spec.format_of("mlp"))
    assert spec.warnings == []


def test_formats_that_differ_by_layer_are_counted_from_the_headers(tmp_path: Path) -> None:
    config = groups({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 8, "type": "float"})
    parts = {path: (nvfp4 if "mlp" in path else fp8)(*shape) for path, shape in SHAPES.items()}
    folder, size = folder_of(tmp_path, config, parts)
    spec = models.from_folder(folder)
    assert (spec.format_of("mlp"), spec.format_of("attention"), spec.weight_bytes) == ("nvfp4", "fp8", size)
    with pytest.raises(ModelUnavailable, match=r"mix fp8, nvfp4: counted from the headers"):
        accounting.count("alone", {**CONFIG, "quantization_config": config})


@pytest.mark.parametrize(
    ("config", "make", "said"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, fp8, "says int4_g128, the weights are fp8"),
        ({"quant_method": "fp8"}, awq, "says fp8, the weights are int4_g128"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, fp8, "says nvfp4, the weights are fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, lambda o, i: gptq(o, i, 8), "as int4_g128"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, fp8, r"weight_block_size is \[0, 128\]"),
    ],
)
def test_a_config_of_other_weights(config: dict[str, Any], make: Any, said: str, tmp_path: Path) -> None:
    folder, _ = folder_of(tmp_path, config, {path: make(*shape) for path, shape in SHAPES.items()})
    with pytest.raises(ModelUnavailable, match=said):
        models.from_folder(folder)


def test_another_group_size_is_told(tmp_path: Path) -> None:
    parts = {path: gptq(*shape, 4, 32) for path, shape in SHAPES.items()}
    folder, size = folder_of(tmp_path, {"quant_method": "gptq", "bits": 4, "group_size": 128}, parts)
    spec = models.from_folder(folder)
    assert spec.warnings == ["config.json says int4_g128, the weights are int4_g32: headers used"]
    assert spec.weight_bytes == size
