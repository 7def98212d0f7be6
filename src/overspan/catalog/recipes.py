"""Recipes: those that ship, files of the user's own, and one made for any model id or folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from overspan.catalog import flags, library, models, overrides, releases
from overspan.schema import secrets
from overspan.schema.errors import RecipeError, UnknownName
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import Place

_FOLDER = "recipes"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def names() -> list[str]:
    """The recipes that ship."""
    return library.names(_FOLDER)


def find(name: str) -> Recipe:
    """A recipe by its name, by the path of a YAML file, or made for a model.

    A model is a Hugging Face id, a model's folder, or the name of one whose sizes ship.

    Raises:
        UnknownName: none of these, with the nearest recipes.
        RecipeError: the file cannot be read, is malformed, or holds a wrong key or value; names line and column.
    """
    if name not in names() and not library.is_path(name):
        if Path(name, "config.json").is_file() or _HUB_ID.fullmatch(name):
            return for_model(name)
        if (known := models.checkpoint_of(name)) is not None:
            return for_model(known).with_(name=name.lower())
        if Path(name).is_dir():
            raise RecipeError(f"folder {name} holds no config.json: vLLM cannot load it as a model")
        raise UnknownName("recipe or model", name, [*names(), *models.names()], next=_known())
    recipe, file, places = library.find(Recipe, _FOLDER, name, "recipe")
    for variant in (None, *recipe.variants):
        varied = overrides.with_variant(recipe, variant) if variant else recipe
        of = f"variant {variant}" if variant else "the recipe"
        secrets.refuse_env(varied.env, where=f"{file}: env of {of}")
        for role, settings in varied.roles.items():
            secrets.refuse_env(settings.env, where=f"{file}: env of role {role}")
            of_role: Place = ("variants", variant, "roles") if variant else ("roles",)
            _check_args(varied, settings.engine_args, (*of_role, role, "engine_args"), file, places)
        _check_requires(varied, file)
        place: Place = ("variants", variant, "engine_args") if variant else ("engine_args",)
        inner = recipe.variants[variant].get("engine_args", {}) if variant else recipe.engine_args
        if isinstance(inner, dict):
            _check_args(varied, inner, place, file, places)
    return recipe


def for_model(model: str) -> Recipe:
    """A recipe with nothing but a model: everything else is the engine's own default."""
    last = Path(model).resolve().name if Path(model).is_dir() else model.rsplit("/", 1)[-1]
    slug = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")[:63]
    local = str(Path(model).resolve()) if Path(model).is_dir() else model
    return Recipe(name=slug or "model", model=local, description=f"{model}, with the engine's defaults")


def _known() -> str:
    shipped = f"recipes that ship: {', '.join(names())}; models: {', '.join(models.names())}"
    return f"{shipped}; or a Hugging Face id (owner/name), a folder, or a YAML file"


def _check_requires(recipe: Recipe, file: str) -> None:
    try:
        for name in recipe.requires:
            releases.find(name)
    except UnknownName as error:
        raise RecipeError(f"{file}: requires: {error.what}", next=error.next) from None


def _check_args(recipe: Recipe, args: dict[str, Any], place: Place, file: str, places: dict[Place, Any]) -> None:
    """Refuse the first engine argument that the engine would refuse, at its line."""
    # With a lock the engine's version is known; a recipe's own version is the oldest that it works with.
    version = recipe.locked.engine_version if recipe.locked else None
    parser = flags.parser_of(recipe.engine)
    if not parser.check_recipe_args(args, version):
        return
    name, problem = next(
        (name, problems[0])
        for name, value in args.items()
        if (problems := parser.check_recipe_args({name: value}, version))
    )
    line = places.get((*place, name))
    where = f"{file}, line {line[0]}, column {line[1]}" if line else file
    raise RecipeError(f"{where}: {problem}")
