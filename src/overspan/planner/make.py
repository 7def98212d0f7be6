"""Make a plan of a recipe, an inventory and an engine."""

from __future__ import annotations

from overspan import __version__
from overspan.schema.inventory import Inventory
from overspan.schema.plan import Endpoint, EngineChoice, Placement, Plan
from overspan.schema.recipe import Recipe


def make_plan(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Plan:
    """The plan on one host: a single process holds every rank."""
    host = inventory.hosts[0]
    ranks = list(range(recipe.layout.world_size))
    gpus = [gpu.index for gpu in host.gpus[: len(ranks)]] if inventory.device == "cuda" else []
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=engine,
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=[Placement(process="api", host=host.name, ranks=ranks, gpus=gpus)],
        notes=recipe.warnings,
        overspan_version=__version__,
    )
