"""A plan for an id that is not on this machine: config.json and the headers come from the hub, and no weight."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overspan.catalog import models
from overspan.cli.plan import plan
from overspan.cli.predict import predict
from overspan.schema.errors import ModelUnavailable
from support.hub import Hub, serving

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
WIDTHS = {"q": (1024, 1024), "k": (512, 1024), "v": (512, 1024), "o": (1024, 1024)}
WEIGHTS_BYTES = 20_000_000
LOAD = ["--isl", "512", "--osl", "64", "--concurrency", "2"]


def weights() -> bytes:
    """A file of one layer's attention in BF16 and a large remainder, of which only the header is ever wanted."""
    header: dict[str, object] = {}
    place = 0
    for name, (rows, columns) in WIDTHS.items():
        size = 2 * rows * columns
        tensor = f"model.layers.0.self_attn.{name}_proj.weight"
        header[tensor] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(max(place, WEIGHTS_BYTES))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving({"config.json": json.dumps(CONFIG).encode(), "model.safetensors": weights()}) as server:
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield server


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments), standalone_mode=False)  # type: ignore[arg-type]


def test_config_and_headers_come_and_no_weights(hub: Hub) -> None:
    said = run(plan, "org/tiny", "--gpu", "h100", *LOAD)
    assert said.exception is None and "TPOT ms" in said.output
    spec = models.find("org/tiny")
    assert spec.counted_from == "headers"
    assert sum(module.parameters for module in spec.modules) == sum(a * b for a, b in WIDTHS.values())
    assert hub.bytes_sent < 300_000, "the file of weights holds 20 MB"
    assert any(asked.startswith("bytes=0-") for asked in hub.ranges)


def test_the_hub_is_asked_once(hub: Hub) -> None:
    assert run(predict, "org/tiny", "--gpu", "h100", *LOAD).exception is None
    asked = len(hub.tokens)
    found = json.loads(run(predict, "org/tiny", "--gpu", "h100", *LOAD, "--json").output)
    assert len(hub.tokens) == asked and found["layout"]


@pytest.mark.parametrize(
    ("model", "said"),
    [("org/gated", "gated"), ("org/private", "private or gated"), ("org/nosuch", "is not on the hub")],
)
def test_what_the_hub_does_not_give_is_one_error(hub: Hub, model: str, said: str) -> None:
    error = run(plan, model, "--gpu", "h100", *LOAD).exception
    assert isinstance(error, ModelUnavailable) and said in error.what and error.exit_code == 2


def test_without_the_hub_a_plan_is_made_and_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    said = run(plan, "org/tiny")
    assert said.exception is None and "the hub was not reached for org/tiny's sizes" in said.output
