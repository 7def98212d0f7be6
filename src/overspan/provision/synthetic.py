"""`--weights synthetic`: a model of full size is measured before a byte of its weights was fetched.

The engine's plugin draws the weights on the device. What it gets in place of a checkpoint is a small folder: the real
config.json, a tokenizer of the real vocabulary's size, and the plugin itself, because a GPU's engine may not have it.
Launchers bring that folder to every host as they bring any model.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from overspan.catalog import models
from overspan.catalog.families import FAMILIES
from overspan.catalog.words import WORDS
from overspan.provision import plugin
from overspan.schema.errors import UnknownName
from overspan.schema.places import synthetic_dir
from overspan.schema.recipe import SYNTHETIC, Recipe

_PLUGIN: Final = "plugin"
UNKNOWN: Final = "<unknown>"
_CHAT: Final = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def with_synthetic_weights(recipe: Recipe) -> Recipe:
    """The recipe with drawn weights in place of a checkpoint. Its answers mean nothing, so none is known.

    Raises:
        UnknownName: the model's sizes are not at hand, or its architecture is not known here.
        InputError: the model has no sound config.json.
    """
    folder = _folder_of(recipe.model)
    path = [str(folder / _PLUGIN), *([recipe.env["PYTHONPATH"]] if recipe.env.get("PYTHONPATH") else [])]
    return recipe.with_(
        model=str(folder),
        package=None,
        revision=None,
        served_model_name=recipe.public_name,
        known_answers=[],
        engine_args={**recipe.engine_args, "load_format": SYNTHETIC},
        env={**recipe.env, "PYTHONPATH": ":".join(path)},
    )


def _folder_of(model: str) -> Path:
    """The folder of a model in the cache, named by what is in it; made now if it is not there."""
    config = models.config_of(model)
    home = synthetic_dir()
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".making-") as temporary:
        made = Path(temporary, "model")
        write_config(config, made, WORDS)
        (made / _PLUGIN).mkdir()
        plugin.place(made / _PLUGIN)
        held = hashlib.sha256(plugin.digest().encode())
        for file in sorted(made.glob("*.json")):
            held.update(file.read_bytes())
        folder = home / f"{config.get('model_type', 'model')}-{held.hexdigest()[:12]}"
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else the very same is there
                raise
    os.utime(folder)  # used now
    return folder


def write_config(real: dict[str, Any], folder: Path, words: Sequence[str]) -> None:
    """Write config.json and a tokenizer that gives one token a word into a new folder.

    Args:
        real: the model's config.json, or what the catalogue states of it.
        folder: to make.
        words: that get tokens of their own; all others are one unknown token.

    Raises:
        UnknownName: the architecture is not known here, so that what the catalogue leaves out cannot be filled in.
    """
    architecture = str((real.get("architectures") or ["(none)"])[0])
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnknownName("architecture", architecture, list(FAMILIES), next="download the model in place of this")
    config = {**family.defaults, **real}
    if isinstance(config.get("quantization_config"), dict) and config["quantization_config"].get("quant_algo"):
        config["quantization_config"] = {"group_size": 16, **config["quantization_config"]}
    folder.mkdir(parents=True)
    _write(folder / "config.json", config)
    _write(folder / "tokenizer.json", _tokenizer(words, int(config["vocab_size"])))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN, "chat_template": _CHAT}
    _write(folder / "tokenizer_config.json", settings)


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document), encoding="utf-8")


def _tokenizer(words: Sequence[str], size: int) -> dict[str, Any]:
    """In the format of the tokenizers library (0.21 to 0.23): one token a word between spaces."""
    named = [UNKNOWN, *dict.fromkeys(words)]
    vocabulary = named + [f"w{number}" for number in range(len(named), size)]
    numbers = {word: number for number, word in enumerate(vocabulary[:size])}
    unused = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    return unused | {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": numbers, "unk_token": UNKNOWN},
    }
