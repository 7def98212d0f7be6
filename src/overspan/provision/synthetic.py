"""`--weights synthetic`: a model of full size is measured before a byte of its weights was fetched.

The engine's plugin draws the weights on the device. What it gets in place of a checkpoint is a small folder: the real
config.json, a tokenizer of the real vocabulary's size, and the plugin itself, because a GPU's engine may not have it.
Launchers bring that folder to every host as they bring any model.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

from overspan.catalog import models
from overspan.catalog.words import WORDS
from overspan.provision import plugin, weights
from overspan.provision.synthetic_config import write_config
from overspan.schema.places import synthetic_dir
from overspan.schema.recipe import Recipe

_PLUGIN: Final = "plugin"


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
        engine_args={**recipe.engine_args, "load_format": weights.SYNTHETIC},
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
