"""Make a plan of a recipe, an inventory and an engine."""

from __future__ import annotations

from overspan import __version__
from overspan.planner.placement import place
from overspan.schema.inventory import Inventory
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.recipe import Recipe


def make_plan(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Plan:
    """The plan, before the model is on disk.

    Raises:
        PlanRefused: it cannot run on these machines; with the reason of each refusal.
    """
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=engine,
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=place(recipe.layout, inventory),
        notes=recipe.warnings,
        overspan_version=__version__,
    )
