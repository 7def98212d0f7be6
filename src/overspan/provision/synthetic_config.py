"""The folder that an engine takes in place of a checkpoint when it draws the weights itself.

Pure but for writing: the real config.json at full size, and a tokenizer of the real vocabulary's size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from overspan.catalog.families import FAMILIES
from overspan.schema.errors import UnknownName

UNKNOWN: Final = "<unknown>"
_CHAT: Final = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


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
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(vocabulary[:size])},
            "unk_token": UNKNOWN,
        },
    }
