"""A quantised twin is split where the real model is, and stored as the engine loads it."""

import json
import struct
from pathlib import Path

import psutil
import pytest

from overspan.catalog import accounting, models
from overspan.inventory import here
from overspan.planner import refuse
from overspan.prove.proving import write_twin
from overspan.prove.twin import write
from overspan.prove.twin.shrink import shrink, width
from overspan.provision import engines
from overspan.provision.children import follow
from overspan.schema.errors import EngineMissing, InputError, OverspanError
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from support.deepseek import DEEPSEEK_V3

LAYOUTS = [Layout(tp=tp) for tp in range(1, 17)] + [Layout(tp=tp, ep=tp) for tp in range(2, 17)]
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def _refused(config: dict[str, object]) -> list[list[str]]:
    """For each layout the kinds of reasons, without the numbers in them."""
    machine = here.this_machine()
    host = machine.hosts[0].with_(gpus=[], cores=64, memory_bytes=2**50)
    inventory = machine.with_(device="cpu", hosts=[host])
    model = accounting.count("model", config)
    kinds = []
    for layout in LAYOUTS:
        reasons = refuse.refusals(model, layout, inventory, Recipe(name="model", model="model"))
        kinds.append(sorted("".join(letter for letter in reason if not letter.isdigit()) for reason in reasons))
    return kinds


@pytest.mark.parametrize(
    ("name", "weights", "blocks_refuse"),
    [
        ("minimax-m2.5", "fp8_block", True),
        ("minimax-m2.5-nvfp4", "nvfp4", False),
        ("minimax-m2.7-nvfp4", "nvfp4", False),
        ("deepseek-v3", "fp8_block", False),
    ],
)
def test_blocks_are_cut_where_the_real_models_are(name: str, weights: str, blocks_refuse: bool) -> None:
    real = models.config_of(name)
    twin = shrink(real, "real")
    assert twin.weights == weights
    small = {**twin.config, "architectures": [twin.architecture], "quantization_config": twin.quantization_config}
    expected = _refused(real)
    assert _refused(small) == expected
    assert any("blocks" in reason for reasons in expected for reason in reasons) == blocks_refuse


def test_a_width_in_blocks_is_the_smallest_that_is_cut_alike() -> None:
    assert width(1536) == 48
    assert width(1536, 16) == 768
    assert width(1536, 128) == 1536
    assert width(2048, 128) == 2048


def test_what_the_config_names_and_routers_and_embeddings_are_left_as_they_were() -> None:
    names = [f"model.layers.0.{rest}.weight" for rest in ("self_attn.q_proj", "mlp.gate", "mlp.experts.3.w1")]
    names += [f"model.layers.4.{rest}.weight" for rest in ("eh_proj", "enorm", "shared_head.head", "embed_tokens")]
    names += ["lm_head.weight", "model.embed_tokens.weight", "model.layers.0.e_score_correction_bias"]
    ignore = ["lm_head", "model.layers.*.self_attn*"]
    assert write.quantised(names, ignore, "modelopt") == ["model.layers.0.mlp.experts.3.w1.weight"]
    assert write.quantised(names, ["lm_head"], "modelopt")[0] == "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("method", "is_quantised"), [("fp8", False), ("compressed-tensors", False), ("modelopt", True)]
)
def test_the_head_is_quantised_where_the_engine_does_so(method: str, is_quantised: bool) -> None:
    """DeepSeek-V3's own config names nothing to be left as it was."""
    assert ("lm_head.weight" in write.quantised(["lm_head.weight", "x.q_proj.weight"], [], method)) == is_quantised


def test_the_config_keeps_the_ignore_list_and_gets_what_the_engine_needs() -> None:
    real = models.config_of("minimax-m2.5-nvfp4")
    stated = shrink(real, "nvfp4").quantization_config
    assert stated == {"group_size": 16, **real["quantization_config"]}
    assert shrink(real, "bf16").quantization_config is None


def test_a_format_that_is_not_written_is_dequantised_and_said() -> None:
    real = {**models.config_of("minimax-m2.5-bf16"), "quantization_config": {"quant_method": "mxfp8"}}
    twin = shrink(real, "real")
    assert twin.weights == "bf16"
    assert twin.notes[0] == "dequantised: mxfp8 checkpoints of mxfp8 are not written; their kernels are not proven"


@pytest.mark.parametrize("name", ["minimax-m2.5-bf16", "minimax-m2.5"])
def test_a_format_that_the_model_has_not_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no twin in nvfp4 can be made of it"):
        shrink(models.config_of(name), "nvfp4")


def test_too_little_memory_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        available = 2**28

    monkeypatch.setattr(psutil, "virtual_memory", Full)
    twin = shrink(models.config_of("minimax-m2.5-nvfp4"), "nvfp4")
    with pytest.raises(OverspanError, match=r"about 5\.\d GiB of memory; 0\.2 GiB are free"):
        write.write("m", twin, tmp_path / "twin", Path("/nowhere/python"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("file", "Not a directory"),
        ("file/twin", "File exists|Not a directory"),
        ("/proc/x", "cannot be made"),
        ("full", "is not empty"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, out: str, said: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(InputError, match=said) as refused:
        write.write("m", shrink(models.config_of("minimax-m2.5-bf16")), tmp_path / out, Path("/nowhere/python"))
    assert refused.value.what.startswith(str(tmp_path / out))
    assert (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.real
@pytest.mark.slow
def test_what_is_stored_means_what_the_reference_reads(tmp_path: Path) -> None:
    try:
        engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    real = tmp_path / "real"
    real.mkdir()
    config = {**models.config_of("minimax-m2.5-nvfp4"), "num_local_experts": 16, "num_hidden_layers": 2}
    (real / "config.json").write_text(json.dumps(config))
    facts = write_twin(str(real), tmp_path / "twin")
    assert facts.weights == "nvfp4"
    assert facts.distinct_tokens >= 8
    stored, meant = (_Tensors(folder) for folder in (tmp_path / "twin", tmp_path / "twin" / "dequantised"))
    name = "model.layers.1.block_sparse_moe.experts.3.w1"
    packed, scales = stored.bytes(f"{name}.weight"), stored.bytes(f"{name}.weight_scale")
    (scale,) = struct.unpack("<f", stored.bytes(f"{name}.weight_scale_2"))
    expected = [
        struct.unpack("<f", b"\0\0" + meant.bytes(f"{name}.weight")[at : at + 2])[0] for at in range(0, 2048, 2)
    ]
    codes = [code for byte in packed[:512] for code in (byte & 15, byte >> 4)]
    got = [(-1) ** (code >> 3) * E2M1[code & 7] * _e4m3(scales[at // 16]) * scale for at, code in enumerate(codes)]
    assert got == expected
    assert len(set(expected)) > 100
    assert stored.header["lm_head.weight"]["dtype"] == "BF16"
    assert "model.layers.0.self_attn.q_proj.weight_scale" not in stored.header
    said: list[str] = []
    script = Path(__file__).parent / "engine_side" / "rounding_and_fault.py"
    follow([str(engines.find("cpu").python), str(script), str(tmp_path / "twin" / "dequantised")], said.append)
    agree = json.loads(said[-1])
    assert agree["bf16"] > 0.98  # 256 experts: 0.998; few routes leave more words to choose among
    assert agree["shifted"] < 0.7


@pytest.mark.real
@pytest.mark.slow
def test_blocks_are_of_the_sides_that_the_config_names_and_the_head_is_plain(tmp_path: Path) -> None:
    try:
        engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    real = tmp_path / "real"
    real.mkdir()
    fp8 = {"quant_method": "fp8", "weight_block_size": [64, 128]}
    few = {"n_routed_experts": 16, "num_hidden_layers": 2, "num_nextn_predict_layers": 0}
    sizes = {"intermediate_size": 2048, "moe_intermediate_size": 2048}
    (real / "config.json").write_text(json.dumps({**DEEPSEEK_V3, **few, **sizes, "quantization_config": fp8}))
    assert write_twin(str(real), tmp_path / "twin").weights == "fp8_block"
    stored = _Tensors(tmp_path / "twin")
    assert stored.header["lm_head.weight"]["dtype"] == "BF16"
    assert "lm_head.weight_scale_inv" not in stored.header
    name = "model.layers.0.mlp.down_proj.weight"
    (rows, columns), scales = stored.header[name]["shape"], stored.header[f"{name}_scale_inv"]["shape"]
    assert scales == [rows / 64, columns / 128]
    meant = _Tensors(tmp_path / "twin" / "dequantised").bytes(name)
    for row in range(0, rows, 31):
        (scale,) = struct.unpack_from("<f", stored.bytes(f"{name}_scale_inv"), row // 64 * scales[1] * 4)
        (value,) = struct.unpack("<f", b"\0\0" + meant[row * columns * 2 : row * columns * 2 + 2])
        code = stored.bytes(name)[row * columns]
        assert value == (-1) ** (code >> 7) * _e4m3(code & 127) * scale


class _Tensors:
    """A safetensors file, read by hand."""

    def __init__(self, folder: Path) -> None:
        data = (folder / "model.safetensors").read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        self.header = json.loads(data[8 : 8 + length])
        self._data = data[8 + length :]

    def bytes(self, name: str) -> bytes:
        begin, end = self.header[name]["data_offsets"]
        return self._data[begin:end]


def _e4m3(byte: int) -> float:
    exponent, mantissa = byte >> 3 & 15, byte & 7
    return 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8
