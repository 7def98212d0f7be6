"""Make a plan of a recipe, an inventory and an engine."""

from __future__ import annotations

from typing import Any

from overspan import __version__
from overspan.catalog import models
from overspan.planner import demands, explain, faults, inputs, memory, rank, refuse, requires
from overspan.planner.placement import WHAT_CAN, place
from overspan.schema.defaults import LOOPBACK
from overspan.schema.errors import InputError, ModelUnavailable, PlanRefused
from overspan.schema.inventory import Host, Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe


def make_plan(recipe: Recipe, inventory: Inventory, engine: EngineChoice, demand: Demand | None = None) -> Plan:
    """The plan, before the model is on disk; with what it needs and will give, where the model's sizes are at hand.

    Args:
        recipe: with the layout that will run.
        inventory: the machines.
        engine: that was chosen.
        demand: the load to predict; one user where not given.

    Raises:
        PlanRefused: it cannot run on these machines; with the reason of each refusal.
    """
    if recipe.topology is not None:
        return _apart(recipe, inventory, engine, demand)
    model, notes = sizes(recipe)
    placements = place(recipe.layout, inventory)
    reasons = refuse.refusals(model, recipe.layout, inventory, recipe)
    reasons += requires.missing(recipe, inventory, engine)
    reasons += demands.unmet(model, recipe.layout, recipe.engine_args) if model else []
    reasons += _unserved(model, recipe, inventory, demand)
    if reasons:
        raise PlanRefused("this plan cannot run:", reasons, next=WHAT_CAN)
    notes += requires.unsure(recipe, inventory, engine)
    notes += [fault.sentence() for fault in faults.known(model, recipe.layout, inventory, recipe)]
    needed, prediction, dtype = {}, None, None
    if model is not None:
        dtype = memory.cpu_dtype(model, recipe, inventory)
        needed = _memory(model, recipe, inventory)
        if dtype:
            needed |= {name: 2 * needed[name] for name in ("weights", "kv")}
            notes.append(
                "the CPU has no bfloat16 arithmetic: computed in float32 (--set dtype=bfloat16 keeps the checkpoint's)"
            )
        prediction, said = _prediction(model, recipe, inventory, demand)
        notes.append(said)
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=engine,
        endpoint=_endpoint(recipe, inventory, placements[0].host),
        placements=placements,
        dtype=dtype,
        memory_per_rank=needed,
        prediction=prediction,
        notes=[*recipe.warnings, *notes],
        overspan_version=__version__,
    )


def _unserved(model: ModelSpec | None, recipe: Recipe, inventory: Inventory, demand: Demand | None) -> list[str]:
    """Requests that are too long for the context; where the launcher gives whole nodes, GPUs that nothing uses."""
    whole_nodes = inventory.traits.whole_nodes
    if demand is None and not whole_nodes:
        return []
    from overspan.planner import topology  # imported when asked: most plans state no lengths and take no whole nodes

    too_long = topology.demand_refusals(model, recipe, demand)
    return [*too_long, *topology.idle(topology.topology_of(recipe), inventory)] if whole_nodes else too_long


def sizes(recipe: Recipe) -> tuple[ModelSpec | None, list[str]]:
    """The model's sizes, or none and why: a model that cannot be counted may still run."""
    try:
        model = models.lookup(recipe.model)
    except ModelUnavailable as error:
        return None, [f"sizes unknown, so memory is not checked: {error.what}"]
    return model, list(model.warnings) if model else []


def _memory(model: ModelSpec, recipe: Recipe, inventory: Inventory) -> dict[str, int]:
    """Bytes by term on the rank that has the least memory."""
    sizes = [(size, reserve) for _, size, reserve in refuse.rank_memory(recipe.layout, inventory)]
    size, reserve = min(sizes)
    return memory.fit(model, recipe.layout, recipe, size, reserve_bytes=reserve).terms()


def _prediction(
    model: ModelSpec, recipe: Recipe, inventory: Inventory, demand: Demand | None
) -> tuple[dict[str, Any] | None, str]:
    """What a user will see, and the sentence that says so."""
    asked = demand or inputs.usual_demand(recipe, model)
    try:
        seen = rank.predict_on(model, recipe, recipe.layout, inventory, asked)
    except InputError as error:
        return None, error.what
    users = "one user" if asked.concurrency == 1 else f"{asked.concurrency} users"
    said = f"predicted with {users}: {explain.explain(seen, recipe)}"
    if seen.basis == "extrapolated":
        said += f" (TPOT {seen.interval.low:.1f}-{seen.interval.high:.1f} ms)"
    return seen.model_dump(mode="json"), said


def _slurm_endpoint(recipe: Recipe, inventory: Inventory, head: Host) -> Endpoint:
    """On the node that Slurm will choose. From a login node it is reached as it is, from elsewhere through a tunnel."""
    if recipe.port == 0:
        raise InputError("port 0 (any free one) is for this machine; Slurm's nodes are others", next="--set port=8000")
    tunnel = inventory.slurm is not None and inventory.slurm.login is not None
    known = head.fabric.address if head.fabric else head.name
    return Endpoint(host=LOOPBACK if tunnel else known, port=recipe.port, model=recipe.public_name, tunnel=tunnel)


def _apart(recipe: Recipe, inventory: Inventory, engine: EngineChoice, demand: Demand | None) -> Plan:
    """The plan with prefill and decode apart."""
    # Imported when asked: most plans have workers of one kind.
    from overspan.planner.disaggregated import place_apart
    from overspan.planner.topology import sized, topology_of

    if demand is not None and "concurrency" in demand.model_fields_set:
        recipe = sized(recipe, topology_of(recipe), demand.concurrency)
    model, notes = sizes(recipe)
    placements, layout = place_apart(recipe, inventory, engine, model, demand)
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=layout,
        engine=engine,
        endpoint=_endpoint(recipe, inventory, placements[0].host),
        placements=placements,
        notes=[*recipe.warnings, *notes, f"{recipe.topology}: no prediction is made of prefill and decode apart"],
        overspan_version=__version__,
    )


def _endpoint(recipe: Recipe, inventory: Inventory, name: str) -> Endpoint:
    """Where this machine reaches the head: what listens on one host's loopback is reached through a tunnel."""
    head = next(host for host in inventory.hosts if host.name == name)
    everywhere = recipe.host in ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
    here = LOOPBACK if everywhere else recipe.host
    if inventory.traits.chooses_hosts:
        return _slurm_endpoint(recipe, inventory, head)
    if head.ssh is None:
        return Endpoint(host=here, port=recipe.port, model=recipe.public_name)
    if recipe.port == 0:
        raise InputError(f"port 0 (any free one) is for this machine; {head.name} is another", next="--set port=8000")
    if everywhere:
        return Endpoint(host=head.ssh.address, port=recipe.port, model=recipe.public_name)
    tunnel = recipe.host in (LOOPBACK, "localhost", "::1")
    return Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name, tunnel=tunnel)
