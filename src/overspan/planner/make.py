"""Make a plan of a recipe, an inventory and an engine: the layout is chosen where none is stated, then checked."""

from __future__ import annotations

from typing import Final, NamedTuple

from overspan import __version__
from overspan.catalog import models
from overspan.planner import explain, inputs, limits, memory, rank, refuse, rules
from overspan.planner.placement import WHAT_CAN, aggregated, place, topology_of
from overspan.planner.roles import demand_refusals, role_refusals, sized
from overspan.schema.defaults import EVERYWHERE, LOOPBACK, LOOPBACKS
from overspan.schema.errors import InputError, ModelUnavailable, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Endpoint, EngineChoice, Parameters, Plan, Rejection
from overspan.schema.prediction import Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.workload import Demand

_MOST_REJECTED: Final = 50  # that a plan keeps; a rack of 72 GPUs has more than a thousand


class _Chosen(NamedTuple):
    """What the best layout gives, the layouts that cannot run, and the sentence that says why it is this one."""

    prediction: Prediction | None
    rejected: list[Rejection]
    why: list[str]


_NOT_CHOSEN: Final = _Chosen(None, [], [])


def states_layout(recipe: Recipe) -> bool:
    """Whether a person chose the layout: in the recipe, with `--set`, or in the run that a lock repeats."""
    return "layout" in recipe.model_fields_set or recipe.locked is not None


def make_plan(
    recipe: Recipe, inventory: Inventory, engine: EngineChoice, demand: Demand | None = None, slo: Slo | None = None
) -> Plan:
    """The plan, before the model is on disk; with what it needs and will give, where the model's sizes are at hand.

    Args:
        recipe: a layout or topology that it states stays; else the best layout is chosen.
        inventory: the machines.
        engine: that was chosen.
        demand: the load to predict; one user where not given.
        slo: limits on latency that must be kept.

    Raises:
        PlanRefused: it cannot run on these machines; with the reason of each refusal.
        InputError: no layout keeps the limits; with the nearest that can be kept.
    """
    topology = topology_of(recipe)
    if recipe.topology is not None and not topology.disaggregated:  # one role: the same as a layout
        recipe = recipe.for_role(topology.answering).with_(topology=None, layout=topology.answering.layout)
    model, notes = _sizes(recipe)
    wished, chosen = slo or Slo(), _NOT_CHOSEN
    if model is not None and recipe.topology is None and not states_layout(recipe):
        chosen = _choose(recipe, model, inventory, demand, wished)
        recipe = recipe.with_(layout=chosen.prediction.layout) if chosen.prediction else recipe
    topology = topology if recipe.topology else aggregated(recipe.layout)
    if demand is not None and "concurrency" in demand.model_fields_set:
        recipe = sized(recipe, topology, demand.concurrency)
    placed = place(topology, inventory, whole_nodes=topology.disaggregated or inventory.traits.whole_nodes)
    if chosen.prediction is not None and model is not None:
        reasons = rules.broken_arguments(model, recipe.layout, recipe.engine_args)  # all else was asked in the ranking
    else:
        reasons = role_refusals(model, recipe, placed, inventory)
    reasons += rules.missing_features(recipe, inventory, engine)
    reasons += demand_refusals(model, recipe, demand)
    if reasons:
        what = f"{topology.label} cannot run:" if topology.disaggregated else "this plan cannot run:"
        raise PlanRefused(what, reasons, next=WHAT_CAN)
    notes += rules.unsure_features(recipe, inventory, engine)
    for role in topology.roles:
        known = rules.known_faults(model, role.layout, inventory, recipe)
        met = [*map(rules.Fault.sentence, known), *limits.cautions(model, role, recipe, inventory)]
        notes += [sentence for sentence in met if sentence not in notes]
    made = Plan(
        recipe=recipe,
        inventory=inventory,
        layout=topology.answering.layout,
        engine=engine,
        endpoint=_endpoint(recipe, inventory, placed.placements[0].host),
        placements=placed.placements,
        rejected=chosen.rejected[:_MOST_REJECTED],
        notes=[*chosen.why, *recipe.warnings, *notes],
        parameters=model and Parameters(total=model.parameters, active=model.active_parameters),
        overspan_version=__version__,
    )
    if model is not None and not topology.disaggregated:
        return _with_sizes(made, model, chosen.prediction, demand, wished)
    uncovered = f"{topology.label}: the prediction does not cover separate prefill and decode workers"
    unchecked = f"nothing is predicted, so {wished} is not checked"
    said = [uncovered] * topology.disaggregated + [unchecked] * (wished != Slo())
    return made.with_(notes=[*made.notes, *said])


def _sizes(recipe: Recipe) -> tuple[ModelSpec | None, list[str]]:
    """The model's sizes, or none and why: a model that cannot be counted may still run."""
    try:
        model = models.lookup(recipe.model)
    except ModelUnavailable as error:
        return None, [f"sizes unknown, so memory is not checked: {error.what}"]
    return model, list(model.warnings) if model else []


def _choose(recipe: Recipe, model: ModelSpec, inventory: Inventory, demand: Demand | None, limits: Slo) -> _Chosen:
    """The best layout for a load.

    Without a layout that fits, the recipe stays as it is: the refusal of one plan says more than those of many.
    """
    asked = demand or inputs.usual_demand(recipe, model)
    ranking = rank.rank(model, recipe, inventory, asked, slo=limits)
    if not ranking.ranked:
        return _NOT_CHOSEN
    _require(ranking.ranked, limits, asked)
    best = ranking.best.prediction
    why = f"layout {best.layout.label}: the best of {len(ranking.ranked)} that can run, for {asked.phrase}"
    several = inventory.device == "cuda" and sum(len(host.gpus) for host in inventory.hosts) > 1
    return _Chosen(best, ranking.rejected, [why] if several else [])


def _require(ranked: list[rank.Ranked], limits: Slo, demand: Demand) -> None:
    if not any(item.meets for item in ranked):
        raise InputError(f"no layout here keeps {limits} for {demand.phrase}", next=rank.nearest(ranked, limits))


def _with_sizes(made: Plan, model: ModelSpec, chosen: Prediction | None, demand: Demand | None, limits: Slo) -> Plan:
    """The plan of one worker with what its fullest rank holds, and what a user will see."""
    recipe, inventory = made.recipe, made.inventory
    fit = refuse.smallest_rank(recipe.layout, inventory).fit(model, recipe.layout, recipe)
    needed, notes = fit.terms(), list(made.notes)
    dtype = memory.cpu_dtype(model, recipe, inventory, fit)
    if dtype:
        needed |= {name: 2 * needed[name] for name in (("weights",) if fit.pool else ("weights", "kv"))}
        instead = "computed in float32 (--set dtype=bfloat16 keeps the checkpoint's)"
        notes.append(f"the CPU has no bfloat16 arithmetic: {instead}")
    asked, seen = demand or inputs.usual_demand(recipe, model), chosen
    try:
        seen = seen or rank.predict_on(model, recipe, recipe.layout, inventory, asked)
    except InputError as error:
        if limits != Slo():
            raise
        notes.append(error.what)
    if seen is not None:
        _require([rank.Ranked(prediction=seen, meets=seen.meets(limits))], limits, asked)
        unsure = f" (TPOT {seen.interval.low:.1f}-{seen.interval.high:.1f} ms)" if seen.basis == "extrapolated" else ""
        notes.append(f"predicted with {asked.phrase}: {explain.explain(seen, recipe)}{unsure}")
    held = memory.as_planned(model, needed)
    return made.with_(dtype=dtype, memory_per_rank=needed, memory=held, prediction=seen, notes=notes)


def _endpoint(recipe: Recipe, inventory: Inventory, name: str) -> Endpoint:
    """Where this machine reaches the head: what listens on one host's loopback is reached through a tunnel."""
    head = next(host for host in inventory.hosts if host.name == name)
    everywhere = recipe.host in EVERYWHERE
    here = LOOPBACK if everywhere else recipe.host
    if inventory.traits.chooses_hosts:
        # From a login node it is reached as it is, from elsewhere through a tunnel.
        if recipe.port == 0:
            what = "port 0 (any free one) is for this machine; Slurm's nodes are others"
            raise InputError(what, next="--set port=8000")
        tunnel = inventory.slurm is not None and inventory.slurm.login is not None
        address = LOOPBACK if tunnel else head.fabric.address if head.fabric else head.name
        return Endpoint(host=address, port=recipe.port, model=recipe.public_name, tunnel=tunnel)
    if head.ssh is None:
        return Endpoint(host=here, port=recipe.port, model=recipe.public_name)
    if recipe.port == 0:
        raise InputError(f"port 0 (any free one) is for this machine; {head.name} is another", next="--set port=8000")
    if everywhere:
        return Endpoint(host=head.ssh.address, port=recipe.port, model=recipe.public_name)
    tunnel = recipe.host in LOOPBACKS
    return Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name, tunnel=tunnel)
