"""What the planner expects of a point, or why it does not say."""

from __future__ import annotations

from typing import Any

from overspan.planner import disagg, rank
from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand
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
) -> dict[str, Any]:
    """TPOT, TTFT and tokens a second; `{"abstained": why}` where the planner has nothing to go by."""
    if model is None:
        return {"abstained": f"the sizes of {recipe.model} are not at hand"}
    lengths, load = workload
    mean = (1 + load.length_ratio) / 2
    rounds = max(1, load.requests_per_user)
    demand = Demand(isl=lengths.isl * mean, osl=lengths.osl * mean, concurrency=users, rounds=rounds)
    try:
        if topology.disaggregated:
            return _apart(model, recipe, topology, inventory, demand)
        seen = rank.predict_on(model, recipe, topology.answering.layout, inventory, demand)
    except OverspanError as error:
        return {"abstained": error.what}
    return {
        **_numbers(seen.tpot_ms, seen.ttft_ms, seen.output_tokens_per_s),
        "interval": {
            "tpot_ms": [round(seen.interval.low, 3), round(seen.interval.high, 3)],
            "ttft_ms": [round(seen.ttft_interval.low, 1), round(seen.ttft_interval.high, 1)],
        },
        "bound": seen.bound,
        "basis": seen.basis,
    }


def _apart(
    model: ModelSpec, recipe: Recipe, topology: Topology, inventory: Inventory, demand: Demand
) -> dict[str, Any]:
    prefill, decode = topology.roles
    seen = disagg.predict_pair(
        model,
        (recipe.for_role(prefill), recipe.for_role(decode)),
        inventory,
        demand,
        pair=((prefill.workers, prefill.layout), (decode.workers, decode.layout)),
    )
    numbers = _numbers(seen.tpot_ms, seen.ttft_ms, seen.output_tokens_per_s)
    return {**numbers, "prefill_busy": round(seen.prefill_busy, 3), "basis": "extrapolated"}


def _numbers(tpot_ms: float, ttft_ms: float, output_tokens_per_s: float) -> dict[str, Any]:
    return {
        "tpot_ms": round(tpot_ms, 3),
        "ttft_ms": round(ttft_ms, 1),
        "output_tokens_per_s": round(output_tokens_per_s, 1),
        "interactivity": round(1e3 / tpot_ms, 2),
    }
