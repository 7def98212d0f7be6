"""The layout of a run that states none: the best that the planner knows on these machines."""

from __future__ import annotations

from overspan.planner import inputs, rank, refuse
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.units import count


def states_layout(recipe: Recipe) -> bool:
    """Whether a person chose the layout: in the recipe, with `--set`, or in the run that a lock repeats."""
    return "layout" in recipe.model_fields_set or recipe.locked is not None


def with_layout(
    recipe: Recipe, model: ModelSpec | None, inventory: Inventory, demand: Demand | None, slo: Slo
) -> tuple[Recipe, str | None]:
    """The recipe with the layout that will run, and the sentence that says why where it was chosen here.

    A layout that is stated stays. Where the model's sizes are not at hand, or nothing fits, the recipe stays as it is:
    the refusal of the plan says more than none of many could.

    Raises:
        InputError: limits were asked for and no layout keeps them; with the nearest that can be kept.
    """
    if model is None:
        return recipe, None
    asked = demand or inputs.usual_demand(recipe, model)
    if states_layout(recipe):
        _require(rank_one(recipe, model, inventory, asked, slo), slo, asked)
        return recipe, None
    ranking = rank.rank(model, recipe, inventory, asked, slo=slo)
    if not ranking.ranked:
        return recipe, None
    _require(ranking.ranked, slo, asked)
    best = ranking.best.prediction.layout
    load = f"{count(asked.concurrency, 'user')}, {asked.isl:.0f} tokens in, {asked.osl:.0f} out"
    why = f"layout {best.label}: the best of {len(ranking.ranked)} that can run, for {load}"
    return recipe.with_(layout=best), why if _several(inventory) else None


def _several(inventory: Inventory) -> bool:
    return sum(refuse.slots(host, inventory) for host in inventory.hosts) > 1 and inventory.device == "cuda"


def rank_one(recipe: Recipe, model: ModelSpec, inventory: Inventory, demand: Demand, slo: Slo) -> list[rank.Ranked]:
    """The recipe's own layout alone, as a ranking of one; empty when nothing can be said of it."""
    if slo == Slo() or refuse.refusals(model, recipe.layout, inventory, recipe):
        return []
    seen = rank.predict_on(model, recipe, recipe.layout, inventory, demand)
    return [rank.Ranked(prediction=seen, meets=seen.meets(slo))]


def _require(ranked: list[rank.Ranked], slo: Slo, demand: Demand) -> None:
    if ranked and not any(item.meets for item in ranked):
        raise InputError(
            f"no layout keeps {slo} for {count(demand.concurrency, 'user')} here",
            next=rank.nearest(ranked, slo),
        )
