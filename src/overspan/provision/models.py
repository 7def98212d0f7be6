"""Model files on this machine: from a package, a local folder or the hub; whole, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from overspan.provision import engines, hub, packaged, weights
from overspan.schema.base import Frozen
from overspan.schema.recipe import Recipe
from overspan.store.locks import Say, quiet


class PreparedModel(Frozen):
    """A model folder that an engine can load."""

    path: Path
    digest: str
    """See `weights.digest_of`: what it covers and what it does not."""
    revision: str | None
    """The commit on the hub, or the requirement that carried it."""
    source: Literal["package", "hub", "folder"]


def prepare(recipe: Recipe, *, python: Path | None = None, say: Say = quiet) -> PreparedModel:
    """Make a recipe's model ready on this machine.

    Args:
        recipe: its `package`, `model` and `revision` are used.
        python: of the engine that will run it, to convert a packaged model; None takes the installed CPU engine's, if
            one is needed at all.
        say: told each step.

    Raises:
        EngineMissing: a conversion is needed and no engine is installed.
        ModelUnavailable: gated, absent, damaged, or no space; nothing half-made is left where it would be seen.
    """
    revision: str | None
    source: Literal["package", "hub", "folder"]
    if recipe.package is not None:
        path = packaged.prepare(recipe.name, recipe.package, lambda: python or engines.find("cpu").python, say=say)
        source, revision = "package", recipe.package.requirement
    elif is_folder(recipe.model):
        path, source, revision = Path(recipe.model).expanduser().absolute(), "folder", recipe.revision
    else:
        path, revision = hub.fetch(recipe.model, recipe.revision, say=say)
        source = "hub"
    weights.check_folder(path, drawn=recipe.has_drawn_weights)
    if wants_tokenizer(recipe):
        weights.require_some_tokenizer(path)
    return PreparedModel(path=path, digest=weights.digest_of(path), revision=revision, source=source)


def wants_tokenizer(recipe: Recipe) -> bool:
    """Whether the engine takes the tokenizer from the model's folder."""
    return not recipe.engine_args.get("tokenizer") and not recipe.engine_args.get("skip_tokenizer_init")


def is_folder(model: str) -> bool:
    """Whether a model's name means a folder: it is one, or is written as a path."""
    return model.startswith(("/", "./", "../", "~")) or Path(model).is_dir()
