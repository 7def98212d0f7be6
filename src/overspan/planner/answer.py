"""The answer to one question of `overspan plan --explain` and `overspan predict`: as a type, as JSON and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from overspan.catalog import hardware, inventories
from overspan.planner import disagg, explain, inputs, rank, refuse
from overspan.planner.predict import setting_of
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Rejection
from overspan.schema.prediction import Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo, parse_slo
from overspan.schema.workload import Demand

_UNMEASURED: Final = "nothing disaggregated was measured behind this: take it as an order, not as numbers"


class PlanQuestion(NamedTuple):
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


class LayoutRow(NamedTuple):
    """One layout that can run, and the sentences about it. `reserved`: GPUs that it keeps from others."""

    item: rank.Ranked
    reserved: int
    explain: str
    tell_apart: str | None
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The layout as `--json` prints it."""
        seen = self.item.prediction
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
            "tokens_per_s_per_gpu_reserved": seen.output_tokens_per_s / self.reserved,
            "interactivity": seen.interactivity,
            "running": seen.running,
            "basis": seen.basis,
            "meets_slo": self.item.meets,
            "pareto": self.item.front,
            "explain": self.explain,
            "tell_apart": self.tell_apart,
            "notes": self.notes,
        }  # fmt: skip


class PlanAnswer(NamedTuple):
    """Layouts, the best or the one asked for first, or pairs of prefill and decode workers.

    `rejected` is None where not all layouts were looked at: one was asked for, or the fewest GPUs.
    """

    model: str
    inventory: str
    demand: Demand
    layouts: list[LayoutRow]
    notes: list[str]
    front: Sequence[Prediction] = ()
    rejected: list[Rejection] | None = None
    pairs: Sequence[disagg.Disaggregated] = ()

    @property
    def best(self) -> str:
        """The first layout."""
        return self.layouts[0].item.prediction.layout.label

    def as_json(self) -> dict[str, Any]:
        """The answer as `--json` prints it: the first layout or pair, then all of them."""
        about = {"model": self.model, "inventory": self.inventory}
        found: dict[str, Any] = {**about, "load": self.demand.phrase, "demand": self.demand.model_dump()}
        if self.pairs:
            pairs = [{"label": one.label, "gpus": one.gpus, **one.model_dump(mode="json")} for one in self.pairs]
            return found | pairs[0] | {"pairs": pairs, "notes": self.notes}
        rows = [row.as_json() for row in self.layouts]
        found |= rows[0] | {"notes": self.notes}
        if self.rejected is not None:
            found["layouts"] = rows
            found["front"] = [
                {
                    "layout": seen.layout.label,
                    "gpus": seen.gpus,
                    "interactivity": seen.interactivity,
                    "tokens_per_s_per_gpu": seen.tokens_per_s_per_gpu,
                }
                for seen in self.front
            ]
            found["rejected"] = [{"layout": item.layout.label, "reason": item.reason} for item in self.rejected]
        return found


def answer(question: PlanQuestion) -> PlanAnswer:
    """The answer: the best layout or the one asked for, the others, what was rejected.

    Raises:
        InputError: the question contradicts itself, nothing can run, or the limits cannot be kept.
    """
    recipe, model = inputs.resolve(question.name, question.settings)
    limits, demand = parse_slo(question.slo), question.demand or inputs.usual_demand(recipe, model)
    found = _answer(question, recipe, model, demand, limits)
    return found._replace(notes=[*inputs.check_context(recipe, model, demand), *found.notes])


def _answer(question: PlanQuestion, recipe: Recipe, model: ModelSpec, demand: Demand, limits: Slo) -> PlanAnswer:
    if question.how_many:
        if question.gpu is None or question.slo is None:
            raise InputError("--how-many needs --gpu and --slo", next="for example --gpu h200 --slo tpot=30 --how-many")
        machines, fewest = rank.how_many(model, recipe, question.gpu, demand, limits)
        row = _row(fewest, recipe, model, machines)
        return PlanAnswer(model.name, machines.name, demand, [row], row.notes)
    machines = _machines(question)
    found = PlanAnswer(model.name, machines.name, demand, [], [])
    if question.disaggregated:
        if demand.rate_per_s is not None:
            raise InputError("--disaggregated predicts users, not --rate", next="give --concurrency")
        pairs = disagg.rank_disaggregated(model, recipe, machines, demand, slo=limits, top=question.top)
        return found._replace(pairs=pairs, notes=[_UNMEASURED])
    if question.layout is not None:
        if reasons := refuse.refusals(model, question.layout, machines, recipe):
            raise PlanRefused(f"{question.layout.label} cannot run on {machines.name}", reasons)
        seen = rank.predict_on(model, recipe, question.layout, machines, demand)
        row = _row(rank.Ranked(seen, meets=seen.meets(limits)), recipe, model, machines)
        return found._replace(layouts=[row], notes=row.notes)
    ranking = rank.rank(model, recipe, machines, demand, slo=limits)
    rows = [_row(item, recipe, model, machines) for item in [ranking.best, *ranking.ranked[1 : question.top]]]
    missed = [] if ranking.best.meets else [f"no layout keeps {limits}; {rank.nearest(ranking.ranked, limits)}"]
    front = sorted((item.prediction for item in ranking.ranked if item.front), key=lambda seen: -seen.interactivity)
    return found._replace(layouts=rows, notes=[*missed, *rows[0].notes], front=front, rejected=ranking.rejected)


def _machines(question: PlanQuestion) -> Inventory:
    found = question.machines
    if found is None and (question.gpu is None) == (question.inventory is None):
        raise InputError("give --on INVENTORY, or --gpu KIND for a what-if", next="for example --gpu h200 --gpus 8")
    if found is None and question.gpu is not None:
        each = question.gpus or hardware.find(question.gpu).gpus_per_host
        # Without --nodes: one host, or as many as the layout that is asked for needs.
        ranks = question.layout.world_size if question.layout else 1
        found = inputs.what_if(question.gpu, question.nodes or -(-ranks // each), question.gpus)
    found = found or inputs.readable(inventories.find(question.inventory or ""))
    if question.hardware:
        hardware.find(question.hardware)  # a mistake in it is told now
        found = found.with_(hardware=question.hardware)
    return found


def _row(item: rank.Ranked, recipe: Recipe, model: ModelSpec, machines: Inventory) -> LayoutRow:
    seen = item.prediction
    setting = setting_of(recipe, model, inputs.hardware_of(machines))
    notes = [*seen.notes, *item.warnings, *model.warnings]
    why, apart = explain.explain(seen, recipe, setting), explain.tell_apart(seen)
    return LayoutRow(item, _reserved(seen.gpus, machines), why, apart, notes)


def _reserved(gpus: int, machines: Inventory) -> int:
    """GPUs that a run keeps from others: whole hosts, filled in order."""
    held = 0
    for host in machines.hosts:
        if held >= gpus:
            break
        held += refuse.slots(host, machines)
    return max(held, gpus)


def as_text(found: PlanAnswer, table: Callable[[list[str], list[list[str]]], str]) -> str:
    """The answer for a person: a table, the sentence, the ceiling, and the experiment to make.

    Args:
        found: the answer.
        table: puts a header and its rows into columns.
    """
    head = f"{found.model} on {found.inventory}: {found.demand.phrase}"
    notes = [f"note: {note}" for note in found.notes]
    if found.pairs:
        return "\n".join([head, table(*_pairs(found.pairs)), *notes])
    best = found.layouts[0]
    lines = [head, table(*_layouts(found.layouts))]
    if len(found.front) > 1:
        points = [f"{one.layout.label} {one.interactivity:.0f}/{one.tokens_per_s_per_gpu:.0f}" for one in found.front]
        lines.append(f"* Pareto front, tok/s a user / tok/s a GPU: {', '.join(points)}")
    lines += ["! over the limits"] if any(not item.meets for item, *_ in found.layouts) else []
    lines += ["", f"{found.best}: {best.explain}", _bound(best.item.prediction)]
    lines += [best.tell_apart] if best.tell_apart else []
    rejected = found.rejected or []
    lines += [*notes, f"rejected {len(rejected)} layouts, for example:"] if rejected else notes
    return "\n".join([*lines, *(f"  {item.layout.label}: {item.reason}" for item in rejected[:3])])


def _layouts(shown: Sequence[LayoutRow]) -> tuple[list[str], list[list[str]]]:
    """A header, and a row a layout."""
    rows = []
    for item, *_ in shown:
        seen, tpot, ttft = item.prediction, item.prediction.interval, item.prediction.ttft_interval
        rows.append([
            seen.layout.label + " *" * item.front + " !" * (not item.meets),
            str(seen.gpus),
            f"{_ms(seen.tpot_ms)} ({_ms(tpot.low)}-{_ms(tpot.high)})",
            f"{seen.ttft_ms:.0f} ({ttft.low:.0f}-{ttft.high:.0f})",
            f"{seen.output_tokens_per_s:.0f}",
            f"{seen.tokens_per_s_per_gpu:.0f}",
            seen.bound,
        ])  # fmt: skip
    return ["layout", "GPUs", "TPOT ms", "TTFT ms", "tok/s", "tok/s/GPU", "bound"], rows


def _bound(seen: Prediction) -> str:
    share, reached = seen.terms[seen.bound] / seen.tpot_ms, seen.ceiling_tpot_ms / seen.tpot_ms
    return (
        f"bound by {seen.bound} ({share:.0%} of a step); the ceiling is {seen.ceiling_tpot_ms:.2f} ms a token: "
        f"its bytes over the bandwidth of {seen.gpus} ranks, of which {reached:.0%} is reached"
    )


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"


def _pairs(pairs: Sequence[disagg.Disaggregated]) -> tuple[list[str], list[list[str]]]:
    """A header, and a row a pair of prefill and decode workers."""
    rows = []
    for one in pairs:
        busy = f"{one.prefill_busy:.0%}{'' if one.meets else ', over the limits'}"
        figures = [f"{one.tpot_ms:.1f}", f"{one.ttft_ms:.0f}", f"{one.output_tokens_per_s:.0f}"]
        rows.append([one.label, str(one.gpus), *figures, busy])
    return ["workers", "GPUs", "TPOT ms", "TTFT ms", "tok/s", "prefill busy"], rows
