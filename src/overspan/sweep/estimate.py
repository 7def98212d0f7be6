"""What the planner expects of a point, or why it does not say."""

from __future__ import annotations

from typing import Any

from overspan.planner import disagg, rank
from overspan.planner.disagg import Disaggregated
from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.point import Estimate
from overspan.schema.prediction import Demand, Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.sweep import Load, Scenario
from overspan.schema.topology import Topology


def estimate(
    model: ModelSpec | None,
    recipe: Recipe,
    topology: Topology,
    inventory: Inventory,
    *,
    workload: tuple[Scenario, Load],
    users: int,
) -> Estimate:
    """TPOT, TTFT and tokens a second, or why the planner has nothing to go by."""
    if model is None:
        return Estimate(abstained=f"the sizes of {recipe.model} are not at hand")
    lengths, load = workload
    mean = (1 + load.length_ratio) / 2
    rounds = max(1, load.requests_per_user)
    demand = Demand(isl=lengths.isl * mean, osl=lengths.osl * mean, concurrency=users, rounds=rounds)
    try:
        if topology.disaggregated:
            return _apart(model, recipe, topology, inventory, demand)
        seen = rank.predict_on(model, recipe, topology.answering.layout, inventory, demand)
    except OverspanError as error:
        return Estimate(abstained=error.what)
    interval, first = seen.interval, seen.ttft_interval
    return _rounded(
        seen,
        interval={
            "tpot_ms": (round(interval.low, 3), round(interval.high, 3)),
            "ttft_ms": (round(first.low, 1), round(first.high, 1)),
        },
        bound=seen.bound,
        basis=seen.basis,
    )


def _apart(model: ModelSpec, recipe: Recipe, topology: Topology, inventory: Inventory, demand: Demand) -> Estimate:
    seen = disagg.predict_topology(model, recipe, topology, inventory, demand)
    return _rounded(seen, prefill_busy=round(seen.prefill_busy, 3), basis="extrapolated")


def _rounded(seen: Prediction | Disaggregated, **more: Any) -> Estimate:
    return Estimate(
        tpot_ms=round(seen.tpot_ms, 3),
        ttft_ms=round(seen.ttft_ms, 1),
        output_tokens_per_s=round(seen.output_tokens_per_s, 1),
        interactivity=round(1e3 / seen.tpot_ms, 2),
        **more,
    )
