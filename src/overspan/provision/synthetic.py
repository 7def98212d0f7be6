"""`--weights synthetic`: a model of full size is measured before a byte of its weights was fetched.

The engine's plugin draws the weights on the device, whatever the model's class in the engine made. What it gets in
place of a checkpoint is a small folder: the real config.json with what lies beside it, a tokenizer, and the plugin
itself, because a GPU's engine may not have it. Launchers bring that folder to every host as they bring any model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from overspan.catalog import models, shapes
from overspan.catalog.families import FAMILIES
from overspan.catalog.words import WORDS
from overspan.provision import plugin
from overspan.schema.places import synthetic_dir
from overspan.schema.recipe import SYNTHETIC, Recipe
from overspan.store.files import shared_as

_PLUGIN: Final = "plugin"
UNKNOWN: Final = "<unknown>"
_CHAT: Final = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
_SMALL: Final = 64 * 2**20  # bytes; the largest tokenizer.json of public models has about 35 MB
_BESIDE: Final = (".json", ".py", ".txt", ".jinja", ".model", ".tiktoken")
_TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model")
_OF_TOKENIZER: Final = ("token", "vocab", "merges", "tekken", "chat_template")
"""Whose own tokenizer is not taken leaves these behind."""


class Made(NamedTuple):
    """A folder in place of a checkpoint, and what a person should know of it."""

    folder: Path
    notes: list[str]


def with_synthetic_weights(recipe: Recipe) -> Recipe:
    """The recipe with drawn weights in place of a checkpoint. Its answers mean nothing, so none is known.

    Raises:
        UnknownName: the model's sizes are not at hand.
        InputError: the model has no sound config.json.
    """
    folder, notes = _folder_of(recipe.model)
    path = [str(folder / _PLUGIN), *([recipe.env["PYTHONPATH"]] if recipe.env.get("PYTHONPATH") else [])]
    return recipe.with_(
        model=str(folder),
        package=None,
        revision=None,
        served_model_name=recipe.public_name,
        known_answers=[],
        engine_args={**recipe.engine_args, "load_format": SYNTHETIC},
        env={**recipe.env, "PYTHONPATH": ":".join(path)},
        warnings=[*recipe.warnings, *notes],
    )


def _folder_of(model: str) -> Made:
    """The folder of a model in the cache, named by what is in it; made now if it is not there."""
    config = models.config_of(model)
    home = synthetic_dir()
    with shared_as(home):
        home.mkdir(parents=True, exist_ok=True)
    with shared_as(home), tempfile.TemporaryDirectory(dir=home, prefix=".making-") as temporary:
        made = Path(temporary, "model")
        notes = write_config(config, made, WORDS, models.folder_of(model))
        (made / _PLUGIN).mkdir()
        plugin.place(made / _PLUGIN)
        held = hashlib.sha256(plugin.digest().encode())
        for file in sorted(item for item in made.iterdir() if item.is_file()):
            held.update(file.name.encode() + b"\0" + file.read_bytes())
        folder = home / f"{_kind(config)}-{held.hexdigest()[:12]}"
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else the very same is there
                raise
    with suppress(PermissionError):  # another account's
        os.utime(folder)  # used now
    return Made(folder, notes)


def _kind(config: dict[str, Any]) -> str:
    """The model's type as part of a file's name."""
    kept = (letter if letter.isalnum() else "_" for letter in str(config.get("model_type") or "model"))
    return "".join(kept)[:40]


def write_config(real: dict[str, Any], folder: Path, words: Sequence[str], home: Path | None = None) -> list[str]:
    """Write config.json, what lies beside it, and a tokenizer into a new folder.

    The tokenizer is the model's own where it is at hand and fits the vocabulary; else one that gives one token a word.

    Args:
        real: the model's config.json, or what the catalogue states of it.
        folder: to make.
        words: that get tokens of their own where the tokenizer is made; all others are one unknown token.
        home: the model's own folder, where it is on this machine.

    Returns:
        What a person should know: an architecture that nobody tried, a tokenizer that is not the model's.
    """
    architecture = str((real.get("architectures") or [""])[0])
    family = FAMILIES.get(architecture)
    config = {**(family.defaults if family else {}), **real}
    if isinstance(config.get("quantization_config"), dict) and config["quantization_config"].get("quant_algo"):
        config["quantization_config"] = {"group_size": 16, **config["quantization_config"]}
    folder.mkdir(parents=True)
    _write(folder / "config.json", config)
    vocabulary = _vocabulary(config)
    own = home is not None and _has_tokenizer(home, vocabulary)
    for file in _beside(home) if home else ():
        if own or not file.name.startswith(_OF_TOKENIZER):
            shutil.copyfile(file, folder / file.name)
    notes = [] if family else _untried(config, architecture, stated=home is None)
    if not own:
        _write(folder / "tokenizer.json", _tokenizer(words, vocabulary or len(words) + 1))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": UNKNOWN, "chat_template": _CHAT}
        _write(folder / "tokenizer_config.json", settings)
        notes.append("weights synthetic: the tokenizer is made too, one token a word: the model's own is not at hand")
    return notes


def _untried(config: dict[str, Any], architecture: str, *, stated: bool) -> list[str]:
    """What is said, and never refused, of an architecture without an entry in families.yaml."""
    notes = []
    if shapes.text_part(config).get("model_type") not in shapes.KNOWN:
        named = f"architecture {architecture[:80]}" if architecture else "the architecture"
        notes.append(
            f"weights synthetic: {named} is not known here; it is tried: the engine's own class says what to fill"
        )
    if stated:
        notes.append("weights synthetic: config.json is what the catalogue states; the rest is the engine's default")
    return notes


def _vocabulary(config: dict[str, Any]) -> int | None:
    """Tokens of the model; None where config.json does not say it."""
    text = shapes.text_part(config)
    sizes = (text.get(name) for name in shapes.KEYS["vocab_size"])
    return next((size for size in sizes if isinstance(size, int) and not isinstance(size, bool) and size > 0), None)


def _beside(home: Path) -> Iterator[Path]:
    """Files of a model's folder that are neither weights nor config.json: small ones that an engine may read."""
    for file in sorted(home.iterdir()):
        index = file.name == "config.json" or file.name.endswith(".index.json")
        if file.suffix in _BESIDE and not index and file.is_file() and file.stat().st_size <= _SMALL:
            yield file


def _has_tokenizer(home: Path, vocabulary: int | None) -> bool:
    """Whether a folder holds a tokenizer whose every token the model has."""
    if not any((home / name).is_file() for name in _TOKENIZERS):
        return any(home.glob("*.tiktoken"))
    file = home / "tokenizer.json"
    if vocabulary is None or not file.is_file():
        return True
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        words = held["model"]["vocab"]
        numbers = list(words.values()) if isinstance(words, dict) else [len(words) - 1]
        return bool(max([*numbers, *(token["id"] for token in held.get("added_tokens") or [])]) < vocabulary)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


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
