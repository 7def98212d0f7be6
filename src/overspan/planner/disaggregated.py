"""A plan whose prefill and decode have workers of their own."""

from __future__ import annotations

from overspan.planner import requires
from overspan.planner.topology import demand_refusals, place_topology, topology_of, topology_refusals
from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import EngineChoice, Placement
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe


def place_apart(
    recipe: Recipe, inventory: Inventory, engine: EngineChoice, model: ModelSpec | None, demand: Demand | None = None
) -> tuple[list[Placement], Layout]:
    """Every worker's placements, prefill first, and the layout of the workers that answer.

    Raises:
        PlanRefused: they cannot run on these machines; with the reason of each refusal.
    """
    topology = topology_of(recipe)
    placed = place_topology(topology, inventory)
    reasons = [
        *topology_refusals(model, recipe, placed, inventory),
        *demand_refusals(model, recipe, demand),
        *requires.missing(recipe, inventory, engine),
    ]
    if reasons:
        raise PlanRefused(f"{topology.label} cannot run:", reasons)
    placements = [
        each.with_(role=worker.role, worker=worker.number) for worker in placed.workers for each in worker.placements
    ]
    return placements, topology.answering.layout
