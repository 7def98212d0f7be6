"""Parameters counted from config.json alone, within 1 % of what is published: published.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from overspan.catalog import accounting

PUBLISHED: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())


NOVEL: dict[str, Any] = {
    **{"model_type": "novel", "hidden_size": 512, "num_hidden_layers": 32, "num_attention_heads": 8},
    **{"num_key_value_heads": 4, "intermediate_size": 2048, "vocab_size": 1000},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counted_as_published(name: str) -> None:
    row = PUBLISHED[name]
    assert accounting.count(name, row["config"]).parameters / 1e9 == pytest.approx(row["billions"], rel=0.01)


@pytest.mark.parametrize(
    ("name", "full", "sliding", "linear"),
    [
        ("gemma-3-27b", 10, 52, 0),
        ("command-a", 16, 48, 0),
        ("exaone-4-32b", 16, 48, 0),
        ("llama4-scout", 12, 36, 0),
        ("gpt-oss-20b", 12, 12, 0),
        ("qwen3-next", 12, 0, 36),
        ("minimax-text-01", 10, 0, 70),
    ],
)
def test_layers_of_each_kind(name: str, full: int, sliding: int, linear: int) -> None:
    held = accounting.count(name, PUBLISHED[name]["config"]).attention
    assert (held.full_layers, held.sliding_layers, held.linear_layers) == (full, sliding, linear)


@pytest.mark.parametrize(
    ("config", "full", "linear"),
    [
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, 4, 28),  # Jamba
        ({"hybrid_override_pattern": "M-M*" * 8}, 8, 16),  # Nemotron-H: the others are feed-forward
        ({"attn_layer_indices": [9, 18, 27]}, 3, 29),  # Bamba
        ({"linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 28, 32]}}, 8, 24),  # Kimi-Linear
        ({"layers_block_type": ["mamba", "attention"] * 16}, 16, 16),  # Zamba, Bamba
        ({"layer_types": ["recurrent", "recurrent", "sliding_attention", "full_attention"] * 8}, 8, 16),
    ],
)
def test_hybrids_in_the_words_of_their_configs(config: dict[str, Any], full: int, linear: int) -> None:
    held = accounting.count("hybrid", NOVEL | config).attention
    assert (held.full_layers, held.linear_layers) == (full, linear)
