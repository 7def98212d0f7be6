"""The processes of a plan whose prefill and decode are apart: each worker as its role runs it, and what joins them."""

from __future__ import annotations

from itertools import groupby

from overspan.engines import disagg, dynamo
from overspan.engines.node import located
from overspan.schema.errors import PlanRefused
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.topology import parse_topology


def processes(plan: Plan) -> list[ProcessSpec]:
    """Every process, the one that answers requests first.

    Raises:
        PlanRefused: the launcher cannot run them.
    """
    if plan.recipe.topology is None:
        raise PlanRefused("this plan has no prefill and decode workers:", ["set topology in the recipe, e.g. 1P1D"])
    if plan.engine.name == "vllm" and plan.inventory.traits.containers == "always":
        reason = "vLLM's router is in no image of vLLM: use engine dynamo, or the launcher slurm or local"
        raise PlanRefused("prefill and decode cannot be apart here:", [reason])
    roles = {role.name: role for role in parse_topology(plan.recipe.topology).roles}
    specs: list[ProcessSpec] = []
    for number, (_, held) in enumerate(groupby(plan.placements, lambda each: (each.role, each.worker))):
        placements = list(held)
        role = roles[placements[0].role]
        own = plan.with_(recipe=plan.recipe.for_role(role), layout=role.layout)
        if plan.engine.name == "dynamo":
            specs += dynamo.worker(located(own), role.name, placements, number)
        else:
            specs += disagg.worker(own, role.name, number, placements)
    if plan.engine.name == "dynamo":
        there = located(plan)
        return dynamo.with_etcd(there, [dynamo.frontend(there), *specs])
    return [disagg.router(plan, specs), *specs]
