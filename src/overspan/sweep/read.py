"""Sweeps: those that ship, and files of the user's own; and the recipe that each entry of one runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from overspan.catalog import flags, library, overrides
from overspan.schema import secrets
from overspan.schema.errors import RecipeError
from overspan.schema.recipe import Recipe, RoleSettings
from overspan.schema.sweep import Changes, LadderEntry, Load, RoleChanges, Scenario, Sweep


def find(name: str) -> Sweep:
    """A sweep by its name, or the path of a YAML file; paths in it are from its folder and are made ones from here.

    Raises:
        UnknownName: no such sweep ships, with the nearest names.
        RecipeError: the file cannot be read, is malformed or contradicts itself; names line and column.
    """
    sweep, _, _ = library.find(Sweep, "sweeps", name, "sweep")
    if not library.is_path(name):
        return sweep
    folder = Path(name).resolve().parent
    given = {"base": sweep.base, "inventory": sweep.inventory}
    files = {field: folder / path for field, path in given.items() if path and (folder / path).is_file()}
    return sweep.with_(**{field: str(path) for field, path in files.items()})


def entry_recipe(base: Recipe, sweep: Sweep, entry: LadderEntry, scenario: Scenario) -> Recipe:
    """The recipe of one entry under one scenario.

    Raises:
        RecipeError: a change is wrong; names the entry and the field.
    """
    recipe = changed(base, entry.overrides, f"sweep {sweep.name}, {entry.slug}: overrides")
    if sweep.context_margin is not None:
        length = scenario.isl + scenario.osl + sweep.context_margin
        recipe = recipe.with_(engine_args={**recipe.engine_args, "max_model_len": length})
    return recipe.with_(layout=entry.topology.answering.layout)


def changed(recipe: Recipe, changes: Changes, where: str) -> Recipe:
    """A recipe with changes merged in; a null takes a value away.

    Raises:
        RecipeError: an unknown engine argument, a wrong value, or a secret; names it.
    """
    if changes.variant is not None:
        recipe = overrides.with_variant(recipe, changes.variant)
    roles = dict(recipe.roles)
    for name, own in changes.roles.items():
        held = roles.get(name, RoleSettings())
        _check(own, f"{where}.roles.{name}", changes.engine or recipe.engine)
        args, env = _merged(held.engine_args, own.engine_args), _merged(held.env, _text(own.env))
        roles[name] = RoleSettings(engine_args=args, env=env)
    _check(changes, where, changes.engine or recipe.engine)
    plain = {name: getattr(changes, name) for name in ("engine", "image", "known_answers", "ready_timeout_s")}
    update = {
        **{name: value for name, value in plain.items() if value is not None},
        "engine_args": _merged(recipe.engine_args, changes.engine_args),
        "env": _merged(recipe.env, _text(changes.env)),
        "roles": roles,
    }
    return recipe.with_(**update)


def entry_load(sweep: Sweep, entry: LadderEntry) -> Load:
    """How the points of an entry are loaded."""
    return sweep.load.with_(**entry.load.model_dump(exclude_none=True))


def _check(changes: RoleChanges, where: str, engine: str) -> None:
    problems = flags.parser_of(engine).check_recipe_args(changes.engine_args)
    if problems:
        raise RecipeError(f"{where}: {problems[0]}")
    secrets.refuse_env(_text(changes.env), where=where)


def _merged(held: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**held, **changes}.items() if value is not None}


def _text(env: dict[str, str | int | float | None]) -> dict[str, Any]:
    return {name: None if value is None else str(value) for name, value in env.items()}
