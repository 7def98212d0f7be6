"""Models are counted right, from config.json and from headers; damaged and malicious folders are refused."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import models, quantisation
from overspan.schema.errors import ModelUnavailable, OverspanError, UnknownName

# Published sizes: docs/sources.md#counted-bytes; llama: 141 GB; M3: 444 GB with its vision part (model cards).
PUBLISHED_GB = {
    "minimax-m2.5-bf16": 457.4,
    "minimax-m2.5": 230.0,
    "minimax-m2.5-nvfp4": 134.4,
    "minimax-m2.7-nvfp4": 130.5,
    "minimax-m3-mxfp8": 444,
    "llama-3.3-70b": 141.1,
}


@pytest.mark.parametrize(("name", "size_gb"), PUBLISHED_GB.items())
def test_published_sizes(name: str, size_gb: float) -> None:
    assert models.find(name).weight_bytes / 1e9 == pytest.approx(size_gb, rel=0.01)


def test_minimax_numbers() -> None:
    spec = models.find("lukealonso/MiniMax-M2.5-NVFP4")
    assert spec.parameters / 1e9 == pytest.approx(228.69, rel=1e-3)
    assert spec.active_parameters / 1e9 == pytest.approx(9.80, rel=1e-3)
    assert spec.kv_bytes(1) == 253_952
    assert spec.attention.qk_norm == "tensor"
    assert (spec.format_of("experts"), spec.format_of("attention"), spec.format_of("lm_head")) == (
        "nvfp4",
        "bf16",
        "bf16",
    )


def test_sparse_attention_reads_less_than_it_keeps() -> None:
    spec = models.find("minimax-m3-mxfp8")
    assert spec.kv_bytes(100_000) == 122_880 * 100_000
    assert spec.kv_bytes_read(100_000) == 2 * 4 * 128 * 2 * (3 * 100_000 + 57 * 16 * 128)


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"did you mean minimax-m2\.5"):
        models.find("minimax-m2.6")


CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}


def folder_of(tmp_path: Path, config: Any, tensors: dict[str, tuple[str, list[int], int]] | None = None) -> Path:
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if tensors is not None:
        header, end = {}, 0
        for name, (dtype, shape, size) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header).encode()
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    return tmp_path


def test_headers_tell_formats(tmp_path: Path) -> None:
    config = {
        **CONFIG,
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
    }
    layer = "model.layers.0"
    spec = models.from_folder(
        folder_of(
            tmp_path,
            config,
            {
                "model.embed_tokens.weight": ("BF16", [32, 8], 512),
                f"{layer}.self_attn.q_proj.weight": ("F8_E4M3", [8, 8], 64),
                f"{layer}.self_attn.q_proj.weight_scale": ("F32", [], 4),
                f"{layer}.mlp.experts.0.w1.weight": ("U8", [16, 8], 128),
                f"{layer}.mlp.experts.0.w1.weight_scale": ("F8_E4M3", [16, 1], 16),
                f"{layer}.mlp.down_proj.weight": ("F8_E4M3", [256, 256], 65536),
                f"{layer}.mlp.down_proj.weight_scale_inv": ("F32", [2, 2], 16),
                f"{layer}.mlp.gate.weight": ("F32", [2, 8], 64),
                "model.layers.1.eh_proj.weight": ("BF16", [8, 16], 256),
            },
        )
    )
    held = {(item.module, item.format): (item.parameters, item.bytes) for item in spec.modules}
    assert held["attention", "fp8"] == (64, 68)
    assert held["experts", "nvfp4"] == (256, 144)
    assert held["mlp", "fp8_block"] == (65536, 65552)
    assert held["router", "fp32"] == (16, 64)
    assert held["mtp", "bf16"] == (128, 256)
    assert spec.counted_from == "headers"


def test_headers_win_over_a_config_that_says_otherwise(tmp_path: Path) -> None:
    spec = models.from_folder(folder_of(tmp_path, CONFIG, {"model.embed_tokens.weight": ("BF16", [32, 8], 512)}))
    assert spec.weight_bytes == 512
    assert any("headers used" in warning for warning in spec.warnings)


def test_unknown_architecture_is_counted_and_named(tmp_path: Path) -> None:
    spec = models.from_folder(folder_of(tmp_path, {**CONFIG, "model_type": "novel", "architectures": ["NovelLM"]}))
    assert any("unknown architecture 'NovelLM'" in warning for warning in spec.warnings)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{not json", "not JSON"),
        ("[1]", "expected keys and values"),
        ({}, "no 'num_hidden_layers'"),
        ({**CONFIG, "hidden_size": -1}, "'hidden_size' must be a whole number from 1"),
        ({**CONFIG, "num_hidden_layers": 10**9}, "'num_hidden_layers' must be a whole number from 1 to 10000"),
        ({**CONFIG, "vocab_size": "many"}, "'vocab_size'"),
        ({**CONFIG, "layer_types": []}, "'layer_types' has 0 entries for 1 layers"),
        ({**CONFIG, "quantization_config": {"bits": 4}}, "no quant_method"),
        ({**CONFIG, "quantization_config": [1, 2]}, r"quantization_config: expected keys and values, found \[1, 2\]"),
        ({**CONFIG, "quantization_config": {"quant_method": "novel"}}, "unknown method novel"),
        ({**CONFIG, "quantization_config": {"quant_method": "awq", "bits": "four"}}, "bits is 'four'"),
    ],
)
def test_configs_that_are_no_model(config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        models.from_folder(folder_of(tmp_path, config))


def test_weights_of_fewer_layers_than_the_config_says(tmp_path: Path) -> None:
    weights = {f"model.layers.{layer}.mlp.up_proj.weight": ("BF16", [32, 8], 512) for layer in range(2)}
    with pytest.raises(ModelUnavailable, match="'num_hidden_layers' is 3, the headers of the weights hold 2"):
        models.from_folder(folder_of(tmp_path, {**CONFIG, "num_hidden_layers": 3}, weights))
    # What comes after the model's own layers drafts (MTP), and a vision tower counts for itself.
    weights["vision_tower.layers.9.up_proj.weight"] = ("BF16", [32, 8], 512)
    assert models.from_folder(folder_of(tmp_path, CONFIG, weights)).layers == CONFIG["num_hidden_layers"]


def test_yarn_stretches_the_context(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    plain = {**CONFIG, "max_position_embeddings": 1024}
    assert models.from_folder(folder_of(tmp_path, plain)).max_context == 1024
    assert models.from_folder(folder_of(tmp_path, {**plain, "rope_scaling": rope})).max_context == 4096


def test_contradictory_quantisation(tmp_path: Path) -> None:
    quantised = {**CONFIG, "quantization_config": {"quant_method": "fp8"}}
    with pytest.raises(
        ModelUnavailable, match=r"contradictory quantisation: config\.json says fp8, all weights are bf16"
    ):
        models.from_folder(folder_of(tmp_path, quantised, {"model.embed_tokens.weight": ("BF16", [32, 8], 512)}))
    weights = {"model.layers.0.self_attn.q_proj.weight": ("F8_E4M3", [32, 8], 256)}
    with pytest.raises(ModelUnavailable, match=r"has no quantization_config, most weights are fp8"):
        models.from_folder(folder_of(tmp_path, CONFIG, weights))
    folder_of(tmp_path, quantised)
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    with pytest.raises(ModelUnavailable, match=r"config\.json says fp8, hf_quant_config\.json says nvfp4"):
        models.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "hold no header"),
        (b"\xff" * 8, "claims .* cut short or damaged"),
        (struct.pack("<Q", 50) + b"{}", "cut short"),
        (struct.pack("<Q", 4) + b"nope", "not JSON"),
        (struct.pack("<Q", 2) + b"[]", "names no tensors"),
        ((100_000, b"["), "not JSON"),
        ({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}, "ends 8 bytes after the file"),
        ({"a": {"dtype": "BF16", "shape": [-4], "data_offsets": [0, 8]}}, "no sound shape"),
        ({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [8, 0]}}, "its shape asks for others"),
        ({"a": {"dtype": "BF17", "shape": [4], "data_offsets": [0, 0]}}, "unknown to safetensors"),
        ({"a": {"dtype": "BF16", "shape": [10**18, 10**18], "data_offsets": [0, 0]}}, "its shape asks for others"),
        ({"a": 7}, "no sound shape"),
    ],
)
def test_damaged_and_malicious_headers(content: Any, said: str, tmp_path: Path) -> None:
    folder_of(tmp_path, CONFIG)
    if isinstance(content, dict):
        text = json.dumps(content).encode()
        content = struct.pack("<Q", len(text)) + text
    elif isinstance(content, tuple):
        content = struct.pack("<Q", content[0]) + content[1] * content[0]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnavailable, match=said):
        models.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("places", "size", "said"),
    [
        ({"a": [0, 2], "b": [1, 3]}, 3, "'b' begins at byte 1, not at 2: damaged"),
        ({"a": [0, 2], "b": [3, 5]}, 5, "'b' begins at byte 3, not at 2: damaged"),
        ({"a": [1, 3]}, 3, "'a' begins at byte 1, not at 0: damaged"),
        ({"a": [0, 2]}, 8, "6 bytes follow the last tensor: damaged"),
    ],
)
def test_tensors_lie_side_by_side_as_safetensors_wants_them(
    places: dict[str, list[int]], size: int, said: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, CONFIG)
    text = json.dumps({name: {"dtype": "BF16", "shape": [1], "data_offsets": at} for name, at in places.items()})
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(size))
    with pytest.raises(ModelUnavailable, match=said):
        models.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside its folder"),
        ('{"weight_map": {"a": "model-00001.safetensors"}}', "is missing, though the index names it"),
        ('{"weight_map": 7}', "not an index of weights"),
        ("{", "not an index of weights"),
    ],
)
def test_bad_indices(index: str, said: str, tmp_path: Path) -> None:
    folder_of(tmp_path, CONFIG)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelUnavailable, match=said):
        models.from_folder(tmp_path)


def test_folder_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(OverspanError, match=r"no config\.json"):
        models.find(str(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "path", "hit"),
    [
        ("lm_head", "lm_head", True),
        ("gate", "model.layers.0.mlp.gate", True),
        ("gate", "model.layers.0.mlp.gate_proj", False),
        ("model.layers.*.self_attn*", "model.layers.7.self_attn.q_proj", True),
        ("model.layers.*.self_attn", "model.layers.7.self_attn.q_proj", True),
        ("model.layers.*.self_attn", "model.layers.7.self_attn_norm", False),
        ("re:.*gate$", "model.layers.0.mlp.gate", True),
        ("re:.*gate$", "model.layers.0.mlp.gate_proj", False),
        ("re:(a+)+$", "a" * 40, False),  # would take for ever
        ("re:[", "x", False),
    ],
)
def test_ignore_patterns(pattern: str, path: str, hit: bool) -> None:
    assert quantisation.ignored([pattern], path) is hit
