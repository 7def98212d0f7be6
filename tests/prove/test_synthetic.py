"""The folder of a full-size model without weights."""

import json
from pathlib import Path

import pytest

from overspan.catalog import models
from overspan.provision.synthetic import UNKNOWN, write_config
from overspan.schema.errors import UnknownName


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


def test_an_unknown_architecture_names_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="MiniMaxM2ForCausalLM"):
        write_config({"architectures": ["MiniMaxM9ForCausalLM"], "vocab_size": 8}, tmp_path / "m", [])
    assert not (tmp_path / "m").exists()
