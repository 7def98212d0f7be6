"""The folder of a full-size model without weights."""

import json
from pathlib import Path

import pytest

from overspan.catalog import models
from overspan.provision.synthetic import UNKNOWN, write_config


def test_the_config_is_the_real_one_at_full_size(tmp_path: Path) -> None:
    real = models.config_of("minimax-m2.5-nvfp4")
    write_config(real, tmp_path / "m", ["time", "people"])
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert {name: config[name] for name in real if name != "quantization_config"} == {
        name: value for name, value in real.items() if name != "quantization_config"
    }
    assert config["quantization_config"] == {"group_size": 16, **real["quantization_config"]}
    # vLLM reads these, and the catalogue leaves them out.
    assert (config["rotary_dim"], config["scoring_func"], config["use_routing_bias"]) == (64, "sigmoid", True)
    assert models.from_folder(tmp_path / "m").weight_bytes == models.find("minimax-m2.5-nvfp4").weight_bytes


def test_each_word_has_a_token_and_each_id_of_the_vocabulary_a_name(tmp_path: Path) -> None:
    write_config(models.config_of("minimax-m2.5-nvfp4"), tmp_path / "m", ["time", "people", "time"])
    vocabulary = json.loads((tmp_path / "m" / "tokenizer.json").read_text())["model"]["vocab"]
    assert (vocabulary[UNKNOWN], vocabulary["time"], vocabulary["people"]) == (0, 1, 2)
    assert sorted(vocabulary.values()) == list(range(200064))


STRANGE = {"architectures": ["MiniMaxM9ForCausalLM"], "model_type": "minimax_m9", "vocab_size": 8}


def test_an_architecture_that_nobody_knows_is_said_and_tried(tmp_path: Path) -> None:
    notes = write_config(STRANGE, tmp_path / "m", ["time"])
    assert any("MiniMaxM9ForCausalLM is not known here; it is tried" in note for note in notes)
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == STRANGE


@pytest.mark.parametrize(("config", "tokens"), [({"text_config": {"vocab_size": 5}}, 5), ({}, 4)])
def test_the_made_tokenizer_stays_within_the_models_vocabulary(
    tmp_path: Path, config: dict[str, object], tokens: int
) -> None:
    notes = write_config(config, tmp_path / "m", ["time", "year", "people"])
    made = json.loads((tmp_path / "m" / "tokenizer.json").read_text())
    assert sorted(made["model"]["vocab"].values()) == list(range(tokens))
    assert any("the tokenizer is made too" in note for note in notes)


def home(folder: Path, tokens: int) -> Path:
    """A model's folder as it was downloaded: a tokenizer of some tokens, code, weights."""
    folder.mkdir()
    vocabulary = {f"t{number}": number for number in range(tokens - 1)}
    own = {"model": {"vocab": vocabulary}, "added_tokens": [{"id": tokens - 1, "content": "<end>"}]}
    files = {
        "config.json": json.dumps(STRANGE), "tokenizer.json": json.dumps(own), "tokenizer_config.json": "{}",
        "generation_config.json": "{}", "modeling_own.py": "", "model.safetensors": "weights",
        "model.safetensors.index.json": "{}",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_what_lies_beside_the_config_comes_too_and_no_weights(tmp_path: Path) -> None:
    here = home(tmp_path / "home", tokens=8)
    notes = write_config(STRANGE, tmp_path / "m", ["time"], here)
    assert {file.name for file in (tmp_path / "m").iterdir()} == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "modeling_own.py",
    }  # fmt: skip
    assert (tmp_path / "m" / "tokenizer.json").read_text() == (here / "tokenizer.json").read_text()
    assert not any("tokenizer" in note for note in notes)


@pytest.mark.parametrize("harm", ["one token too many", "no JSON"])
def test_a_tokenizer_that_does_not_fit_is_not_taken(tmp_path: Path, harm: str) -> None:
    here = home(tmp_path / "home", tokens=9)
    if harm == "no JSON":
        (here / "tokenizer.json").write_text("{")
    notes = write_config(STRANGE, tmp_path / "m", ["time"], here)
    assert len(json.loads((tmp_path / "m" / "tokenizer.json").read_text())["model"]["vocab"]) == 8
    assert (tmp_path / "m" / "generation_config.json").exists()
    assert any("the tokenizer is made too" in note for note in notes)
