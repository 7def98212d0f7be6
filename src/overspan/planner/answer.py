"""The answer to one question of `overspan predict`, as data and as text."""

from __future__ import annotations

from typing import Any, Final

from overspan.catalog import hardware, inventories
from overspan.planner import disagg, explain, rank, refuse, subject
from overspan.planner.predict import setting_of
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Demand, Slo
from overspan.schema.recipe import Recipe

_UNMEASURED: Final = "nothing disaggregated was measured behind this: take it as an order, not as numbers"


class Question(Frozen):
    """What is asked: a model on an inventory or on what-if machines, one layout or all, under a load and limits."""

    name: str
    settings: tuple[str, ...] = ()
    inventory: str | None = None
    gpu: str | None = None
    nodes: int | None = None
    gpus: int | None = None
    layout: Layout | None = None
    demand: Demand = Demand()
    slo: str | None = None
    how_many: bool = False
    disaggregated: bool = False
    top: int = 5


def answer(question: Question) -> dict[str, Any]:
    """The answer: `best` or the layout asked for, the others, what was rejected.

    Raises:
        InputError: the question contradicts itself, nothing can run, or the limits cannot be kept.
    """
    recipe, model = subject.resolve(question.name, question.settings)
    limits = parse_slo(question.slo)
    if question.how_many:
        if question.gpu is None or question.slo is None:
            raise InputError("--how-many needs --gpu and --slo", next="for example --gpu h200 --slo tpot=30 --how-many")
        machines, fewest = rank.how_many(model, recipe, question.gpu, question.demand, limits)
        return {**_one(fewest, recipe, model, machines), "model": model.name, "inventory": machines.name}
    machines = _machines(question)
    found: dict[str, Any] = {"model": model.name, "inventory": machines.name}
    if question.disaggregated:
        pairs = disagg.rank_disaggregated(model, recipe, machines, question.demand, slo=limits, top=question.top)
        shown = [{"label": one.label, "gpus": one.gpus, **one.model_dump(mode="json")} for one in pairs]
        return found | shown[0] | {"pairs": shown, "notes": [_UNMEASURED]}
    if question.layout is not None:
        return found | _asked(question, recipe, model, machines, limits)
    ranking = rank.rank(model, recipe, machines, question.demand, slo=limits)
    shown = [_one(item, recipe, model, machines) for item in [ranking.best, *ranking.ranked[1 : question.top]]]
    rejected = [{"layout": item.layout.label, "reason": item.reason} for item in ranking.rejected]
    return found | shown[0] | {"layouts": shown, "rejected": rejected}


def _asked(question: Question, recipe: Recipe, model: ModelSpec, machines: Inventory, limits: Slo) -> dict[str, Any]:
    layout = question.layout or Layout()
    reasons = refuse.refusals(model, layout, machines, recipe)
    if reasons:
        raise PlanRefused(f"{layout.label} cannot run on {machines.name}", reasons)
    seen = rank.predict_on(model, recipe, layout, machines, question.demand)
    return _one(rank.Ranked(prediction=seen, meets=limits.met_by(seen)), recipe, model, machines)


def _machines(question: Question) -> Inventory:
    if (question.gpu is None) == (question.inventory is None):
        raise InputError("give --on INVENTORY, or --gpu KIND for a what-if", next="for example --gpu h200 --gpus 8")
    if question.gpu is not None:
        each = question.gpus or hardware.find(question.gpu).gpus_per_host
        # Without --nodes: one host, or as many as the layout that is asked for needs.
        ranks = question.layout.world_size if question.layout else 1
        return subject.what_if(question.gpu, question.nodes or -(-ranks // each), question.gpus)
    return inventories.find(question.inventory or "")


def _one(item: rank.Ranked, recipe: Recipe, model: ModelSpec, machines: Inventory) -> dict[str, Any]:
    seen = item.prediction
    setting = setting_of(recipe, model, subject.hardware_of(machines))
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
        "interactivity": seen.interactivity,
        "running": seen.running,
        "basis": seen.basis,
        "meets_slo": item.meets,
        "pareto": item.front,
        "explain": explain.explain(seen, recipe, setting),
        "tell_apart": explain.tell_apart(seen),
        "notes": [*seen.notes, *item.warnings, *model.warnings],
    }  # fmt: skip


def parse_slo(text: str | None) -> Slo:
    """Limits such as `ttft=2000,tpot=30`.

    Raises:
        InputError: not such a text.
    """
    limits: dict[str, float] = {}
    for part in (text or "").split(",") if text else []:
        name, _, value = part.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if name not in ("ttft", "tpot") or not number > 0:
            raise InputError(f"--slo {text}: '{part.strip()}' is no limit", next="write it like ttft=2000,tpot=30 (ms)")
        limits[f"{name}_ms"] = number
    return Slo.model_validate(limits)


def as_text(found: dict[str, Any]) -> str:
    """The answer for a person: a table, the sentence, and the experiment to make."""
    if "pairs" in found:
        return _pairs_as_text(found)
    shown = found.get("layouts", [found])
    lines = [f"{found['model']} on {found['inventory']}", f"{'layout':<12}{'GPUs':>5}{'TPOT ms':>20}{'TTFT ms':>24}"]
    lines[-1] += f"{'tok/s':>9}{'tok/s/GPU':>11}  bound"
    for item in shown:
        tpot, ttft = item["interval"]["tpot_ms"], item["interval"]["ttft_ms"]
        marks = ("" if item["meets_slo"] else "  over the limits") + ("  *" if item["pareto"] else "")
        lines.append(
            f"{item['layout']:<12}{item['gpus']:>5}{item['tpot_ms']:>8.1f} ({tpot[0]:.1f}-{tpot[1]:.1f})".ljust(40)
            + f"{item['ttft_ms']:>6.0f} ({ttft[0]:.0f}-{ttft[1]:.0f})".ljust(22)
            + f"{item['output_tokens_per_s']:>8.0f}{item['tokens_per_s_per_gpu']:>11.0f}  {item['bound']}{marks}"
        )
    lines += ["", f"{found['layout']}: {found['explain']}"]
    lines += [found["tell_apart"]] if found["tell_apart"] else []
    lines += [f"note: {note}" for note in found["notes"]]
    rejected = found.get("rejected", [])
    lines += [f"rejected {len(rejected)} layouts, for example:"] if rejected else []
    lines += [f"  {item['layout']}: {item['reason']}" for item in rejected[:3]]
    return "\n".join(lines)


def _pairs_as_text(found: dict[str, Any]) -> str:
    """Pairs of prefill and decode workers for a person."""
    head = f"{'workers':<28}{'GPUs':>5}{'TPOT ms':>9}{'TTFT ms':>9}{'tok/s':>9}  prefill busy"
    rows = [
        f"{item['label']:<28}{item['gpus']:>5}{item['tpot_ms']:>9.1f}{item['ttft_ms']:>9.0f}"
        f"{item['output_tokens_per_s']:>9.0f}  {item['prefill_busy']:.0%}"
        + ("" if item["meets"] else "  over the limits")
        for item in found["pairs"]
    ]
    return "\n".join(
        [f"{found['model']} on {found['inventory']}", head, *rows, *(f"note: {n}" for n in found["notes"])]
    )
