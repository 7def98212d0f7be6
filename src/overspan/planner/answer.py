"""The answer to one question of `overspan plan` and `overspan predict`, as data; `show` makes text of it."""

from __future__ import annotations

from typing import Any, Final

from overspan.catalog import hardware, inventories
from overspan.planner import disagg, explain, inputs, rank, refuse
from overspan.planner.predict import setting_of
from overspan.planner.show import as_text
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand, Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo, parse_slo

__all__ = ["Question", "answer", "as_text"]

_UNMEASURED: Final = "nothing disaggregated was measured behind this: take it as an order, not as numbers"


class Question(Frozen):
    """What is asked: a model on an inventory or on what-if machines, one layout or all, under a load and limits.

    `machines` is an inventory at hand, in place of the name or file of one.
    """

    name: str
    settings: tuple[str, ...] = ()
    inventory: str | None = None
    machines: Inventory | None = None
    gpu: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    hardware: str | None = None
    layout: Layout | None = None
    demand: Demand | None = None
    slo: str | None = None
    how_many: bool = False
    disaggregated: bool = False
    top: int = 5


def answer(question: Question) -> dict[str, Any]:
    """The answer: the best layout or the one asked for, the others, what was rejected.

    Raises:
        InputError: the question contradicts itself, nothing can run, or the limits cannot be kept.
    """
    recipe, model = inputs.resolve(question.name, question.settings)
    limits, demand = parse_slo(question.slo), question.demand or Demand()
    found = _answer(question, recipe, model, demand, limits)
    found["notes"] = [*inputs.check_context(recipe, model, demand), *found.get("notes", [])]
    return found


def _answer(question: Question, recipe: Recipe, model: ModelSpec, demand: Demand, limits: Slo) -> dict[str, Any]:
    if question.how_many:
        if question.gpu is None or question.slo is None:
            raise InputError("--how-many needs --gpu and --slo", next="for example --gpu h200 --slo tpot=30 --how-many")
        machines, fewest = rank.how_many(model, recipe, question.gpu, demand, limits)
        return {**_about(model, machines, demand), **_one(fewest, recipe, model, machines)}
    machines = _machines(question)
    found = _about(model, machines, demand)
    if question.disaggregated:
        pairs = disagg.rank_disaggregated(model, recipe, machines, demand, slo=limits, top=question.top)
        shown = [{"label": one.label, "gpus": one.gpus, **one.model_dump(mode="json")} for one in pairs]
        return found | shown[0] | {"pairs": shown, "notes": [_UNMEASURED]}
    if question.layout is not None:
        return found | _asked(question.layout, recipe, model, machines, demand=demand, limits=limits)
    ranking = rank.rank(model, recipe, machines, demand, slo=limits)
    shown = [_one(item, recipe, model, machines) for item in [ranking.best, *ranking.ranked[1 : question.top]]]
    front = [item.prediction for item in ranking.ranked if item.front]
    found |= shown[0] | {
        "layouts": shown,
        "front": [_on_front(seen) for seen in sorted(front, key=lambda seen: -seen.interactivity)],
        "rejected": [{"layout": item.layout.label, "reason": item.reason} for item in ranking.rejected],
    }
    if not ranking.best.meets:
        reachable = rank.nearest(ranking.ranked, limits)
        found["notes"] = [f"no layout keeps {limits}; {reachable}", *found["notes"]]
    return found


def _about(model: ModelSpec, machines: Inventory, demand: Demand) -> dict[str, Any]:
    return {"model": model.name, "inventory": machines.name, "demand": demand.model_dump(exclude={"rounds", "in_step"})}


def _on_front(seen: Prediction) -> dict[str, Any]:
    return {
        "layout": seen.layout.label,
        "gpus": seen.gpus,
        "interactivity": seen.interactivity,
        "tokens_per_s_per_gpu": seen.tokens_per_s_per_gpu,
    }


def _asked(
    layout: Layout, recipe: Recipe, model: ModelSpec, machines: Inventory, *, demand: Demand, limits: Slo
) -> dict[str, Any]:
    reasons = refuse.refusals(model, layout, machines, recipe)
    if reasons:
        raise PlanRefused(f"{layout.label} cannot run on {machines.name}", reasons)
    seen = rank.predict_on(model, recipe, layout, machines, demand)
    return _one(
        rank.Ranked(prediction=seen, meets=seen.meets(limits)),
        recipe,
        model,
        machines,
    )


def _machines(question: Question) -> Inventory:
    found = _named_machines(question)
    if question.hardware:
        hardware.find(question.hardware)  # a mistake in it is told now
        found = found.with_(hardware=question.hardware)
    return found


def _named_machines(question: Question) -> Inventory:
    if question.machines is not None:
        return question.machines
    if (question.gpu is None) == (question.inventory is None):
        raise InputError("give --on INVENTORY, or --gpu KIND for a what-if", next="for example --gpu h200 --gpus 8")
    if question.gpu is not None:
        each = question.gpus or hardware.find(question.gpu).gpus_per_host
        # Without --nodes: one host, or as many as the layout that is asked for needs.
        ranks = question.layout.world_size if question.layout else 1
        return inputs.what_if(question.gpu, question.nodes or -(-ranks // each), question.gpus)
    return inventories.find(question.inventory or "")


def _one(item: rank.Ranked, recipe: Recipe, model: ModelSpec, machines: Inventory) -> dict[str, Any]:
    seen = item.prediction
    setting = setting_of(recipe, model, inputs.hardware_of(machines))
    return {
        "layout": seen.layout.label,
        "gpus": seen.gpus,
        "tpot_ms": seen.tpot_ms,
        "ttft_ms": seen.ttft_ms,
        "bound": seen.bound,
        "terms": seen.terms,
        "ttft_terms": seen.ttft_terms,
        "interval": {"tpot_ms": [seen.interval.low, seen.interval.high],
                     "ttft_ms": [seen.ttft_interval.low, seen.ttft_interval.high]},
        "ceiling_tpot_ms": seen.ceiling_tpot_ms,
        "output_tokens_per_s": seen.output_tokens_per_s,
        "tokens_per_s_per_gpu": seen.tokens_per_s_per_gpu,
        "tokens_per_s_per_gpu_reserved": seen.output_tokens_per_s / reserved(seen.gpus, machines),
        "interactivity": seen.interactivity,
        "running": seen.running,
        "basis": seen.basis,
        "meets_slo": item.meets,
        "pareto": item.front,
        "explain": explain.explain(seen, recipe, setting),
        "tell_apart": explain.tell_apart(seen),
        "notes": [*seen.notes, *item.warnings, *model.warnings],
    }  # fmt: skip


def reserved(gpus: int, machines: Inventory) -> int:
    """GPUs that a run keeps from others: whole hosts, filled in order."""
    held = 0
    for host in machines.hosts:
        if held >= gpus:
            break
        held += refuse.slots(host, machines)
    return max(held, gpus)
