"""What the readers of other tools' recipes share: each thing is carried over, or told, or refused with its place."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from overspan.catalog import files
from overspan.schema.errors import RecipeError
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import make, plain

DEGREES: Final = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass(frozen=True)
class Imported:
    """A recipe, and one sentence for each thing that could not be carried over."""

    recipe: Recipe
    warnings: list[str]


@functools.cache
def table(tool: str) -> Mapping[str, Any]:
    """What is known of a tool's recipes: `carried` keys, and of those `dropped` why."""
    held: Mapping[str, Any] = plain(files.text("imports.yaml"))[tool]
    return held


def dropped(tool: str, keys: Iterable[str]) -> list[str]:
    """The warnings of those keys of a tool's recipe that are not carried over."""
    known = table(tool)
    return [left_out(key, known["dropped"].get(key)) for key in keys if key not in known["carried"]]


def left_out(key: str, why: str | None = None) -> str:
    """The warning of a setting that has no place in a recipe of ours."""
    return f"{key}: not carried over: {why or 'Overspan has no such setting'}"


def made(fields: Mapping[str, Any], warnings: list[str], where: str) -> Imported:
    """The recipe of these fields, with the warnings in it; its name is made one that a recipe may have.

    Raises:
        RecipeError: a field is wrong.
    """
    name = re.sub(r"[^a-z0-9._-]+", "-", str(fields["name"]).lower()).strip("-._")[:63]
    return Imported(make(Recipe, {**fields, "name": name or "imported", "warnings": warnings}, where), warnings)


def section(data: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """The keys and values under a name; none where it is left out.

    Raises:
        RecipeError: something else stands there.
    """
    held = data.get(name) or {}
    if not isinstance(held, dict):
        raise RecipeError(f"{where}: '{name}': expected keys and values, found {type(held).__name__}")
    return {str(key): value for key, value in held.items()}


def count(value: Any, where: str) -> int:
    """A number of ranks, workers or hosts; 1 where it is left out.

    Raises:
        RecipeError: it is no such number.
    """
    if value is None:
        return 1
    if isinstance(value, bool) or not re.fullmatch(r"[1-9][0-9]{0,3}", str(value)):
        raise RecipeError(f"{where}: expected a whole number from 1 on (given: {value!r})")
    return int(value)


def layout_of(args: Mapping[str, Any], where: str) -> Layout:
    """The layout that vLLM's arguments state.

    Raises:
        RecipeError: a degree is no number, or too large.
    """
    tp, pp, dp = (count(args.get(name), f"{where}: {name}") for name in DEGREES)
    ep = tp * dp if args.get("enable_expert_parallel") else 1
    return make(Layout, {"tp": tp, "pp": pp, "dp": dp, "ep": ep}, where)
