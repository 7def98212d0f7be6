"""Architectures that nothing here knows: counted from the headers, with all that is unknown named."""

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import accounting, models
from overspan.cli.main import main
from overspan.schema.errors import InputError, ModelUnavailable
from support.hollow import Tensors, write_weights


def folder_of(tmp_path: Path, config: dict[str, Any], tensors: Tensors) -> Path:
    """A model's folder whose weights are a header and a hole."""
    write_weights(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def dense(prefix: str, layers: int = 6, *, query: str = "attn.wq", key: str = "attn.wk") -> Tensors:
    """Width 1024, 8 heads of 128, 2 KV heads, 4096 in the feed-forward part, 32,000 words."""
    found: Tensors = {"tok_table.weight": ("BF16", [32000, 1024]), "out_table.weight": ("BF16", [32000, 1024])}
    for index in range(layers):
        place = f"{prefix}{index}"
        found |= {
            f"{place}.{query}.weight": ("BF16", [1024, 1024]),
            f"{place}.{key}.weight": ("BF16", [256, 1024]),
            f"{place}.attn.wv.weight": ("BF16", [256, 1024]),
            f"{place}.attn.wo.weight": ("BF16", [1024, 1024]),
            f"{place}.ffn.up.weight": ("BF16", [4096, 1024]),
            f"{place}.ffn.gate_up.weight": ("BF16", [4096, 1024]),
            f"{place}.ffn.down.weight": ("BF16", [1024, 4096]),
            f"{place}.pre.scale_norm": ("BF16", [1024]),
        }
    return found


NOVEL: dict[str, Any] = {"architectures": ["NovelForCausalLM"], "model_type": "novel"}


@pytest.mark.parametrize("prefix", ["net.stack.", "transformer.h.", "model.decoder.blocks.", "layers."])
def test_layers_are_counted_whatever_they_are_called(prefix: str, tmp_path: Path) -> None:
    tensors = dense(prefix)
    spec = models.from_folder(folder_of(tmp_path, NOVEL, tensors))
    assert (spec.layers, spec.hidden, spec.vocab, spec.intermediate) == (6, 1024, 32000, 4096)
    assert (spec.attention.heads, spec.attention.kv_heads, spec.attention.head_dim) == (8, 2, 128)
    assert spec.weight_bytes == 2 * (2 * 32000 * 1024 + 6 * (2 * 1024**2 + 2 * 256 * 1024 + 3 * 4096 * 1024 + 1024))
    assert spec.bytes_of("lm_head") == spec.bytes_of("embedding") == 2 * 32000 * 1024
    assert spec.kv_bytes(1) == 6 * 2 * 2 * 128 * 2
    told = " ".join(spec.warnings)
    for part in ("NovelForCausalLM", "num_hidden_layers (6)", "vocab_size (32000)", "assumed: head_dim (128)"):
        assert part in told


def test_names_of_other_families_are_understood(tmp_path: Path) -> None:
    """GPT-2's words, DBRX's parts and a text part that is nested twice need no headers."""
    flat = {**NOVEL, "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 128}
    assert (accounting.count("a", flat).layers, accounting.count("a", flat).attention.heads) == (2, 4)
    parts = {
        **{"d_model": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 128},
        "attn_config": {"kv_n_heads": 2},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 16, "moe_top_k": 4},
    }
    spec = accounting.count("b", {**NOVEL, **parts})
    assert (spec.attention.kv_heads, spec.experts, spec.experts_per_token, spec.expert_intermediate) == (2, 16, 4, 96)
    nested = {**NOVEL, "thinker_config": {"text_config": {**flat, "model_type": "novel_text"}}}
    assert accounting.count("c", nested).hidden == 64


@pytest.mark.parametrize("stacked", [False, True])
def test_experts_are_found_by_their_shape(stacked: bool, tmp_path: Path) -> None:
    tensors = dense("net.stack.", 4)
    for index in range(1, 4):  # the first layer is dense
        place = f"net.stack.{index}.bank"
        tensors[f"net.stack.{index}.chooser.weight"] = ("BF16", [64, 1024])
        if stacked:
            tensors[f"{place}.first"] = ("BF16", [64, 1024, 512])
            tensors[f"{place}.second"] = ("BF16", [64, 512, 1024])
        else:
            for expert in range(64):
                tensors[f"{place}.{expert}.first.weight"] = ("BF16", [512, 1024])
                tensors[f"{place}.{expert}.second.weight"] = ("BF16", [1024, 512])
    spec = models.from_folder(folder_of(tmp_path, NOVEL, tensors))
    assert (spec.experts, spec.moe_layers) == (64, 3)
    assert spec.parameters_of("experts") == 3 * 64 * 2 * 512 * 1024
    assert spec.parameters_of("router") == 3 * 64 * 1024
    assert any("the experts that a token takes: 8 of 64" in item for item in spec.assumed)


def test_what_is_assumed_widens_the_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path, NOVEL, dense("net.stack."))
    with pytest.raises(SystemExit):
        main(["predict", str(folder), "--gpu", "h200", "--layout", "tp1", "--json"])
    found = json.loads(capsys.readouterr().out)
    low, high = found["interval"]["tpot_ms"]
    assert found["basis"] == "extrapolated"
    assert high / low > 1.6
    assert any("assumed" in note and "head_dim" in note for note in found["notes"])


def test_layers_with_a_state_are_not_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = dense("net.stack.")
    tensors |= {f"net.stack.{index}.mix.A_log": ("F32", [16]) for index in range(5)}
    spec = models.from_folder(folder_of(tmp_path, NOVEL, tensors))
    assert (spec.attention.linear_layers, spec.attention.full_layers) == (5, 1)
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path), "--gpu", "h200", "--layout", "tp1"])
    assert "linear attention" in capsys.readouterr().err


def test_latent_attention_is_seen_in_its_projections(tmp_path: Path) -> None:
    tensors = {name: held for name, held in dense("net.stack.").items() if ".wk" not in name and ".wv" not in name}
    for index in range(6):
        place = f"net.stack.{index}.attn"
        tensors |= {
            f"{place}.kv_a_proj_with_mqa.weight": ("BF16", [576, 1024]),
            f"{place}.kv_a_layernorm.weight": ("BF16", [512]),
            f"{place}.kv_b_proj.weight": ("BF16", [8 * 256, 512]),
        }
    spec = models.from_folder(folder_of(tmp_path, {**NOVEL, "num_attention_heads": 8}, tensors))
    assert (spec.attention.kind, spec.kv_bytes(1)) == ("mla", 6 * 576 * 2)
    assert (spec.attention.kv_lora_rank, spec.attention.rope_head_dim, spec.attention.value_dim) == (512, 64, 128)


def test_a_config_keeps_the_last_word(tmp_path: Path) -> None:
    """What config.json says is not overwritten; more layers than it says are told."""
    said = {**NOVEL, "num_hidden_layers": 5, "num_attention_heads": 16, "num_key_value_heads": 4, "hidden_size": 1024}
    spec = models.from_folder(folder_of(tmp_path, said, dense("net.stack.")))
    assert (spec.layers, spec.attention.heads, spec.attention.head_dim) == (5, 16, 64)
    assert any("hold 6 layers, config.json says 5" in warning for warning in spec.warnings)
    said["num_hidden_layers"] = 7
    with pytest.raises(ModelUnavailable, match="'num_hidden_layers' is 7, the headers of the weights hold 6"):
        models.from_folder(folder_of(tmp_path, said, dense("net.stack.")))


def test_without_headers_the_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(NOVEL))
    with pytest.raises(InputError, match="no 'num_hidden_layers'"):
        models.from_folder(tmp_path)
