"""Every layout that an inventory allows: predicted, ranked, or kept with the reason why it cannot run."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from overspan.planner import inputs, rules
from overspan.planner.features import Case
from overspan.planner.predict import predict
from overspan.planner.refuse import recipe_refusals, refusals, slots
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Rejection
from overspan.schema.prediction import Prediction
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.statistics import pareto_front
from overspan.schema.workload import Demand

_MOST_GROUPS: Final = 1024  # data-parallel groups that a layout may have (schema.layout)
_MOST_EXPERT_RANKS: Final = 4096  # the same of ranks with experts
_MOST_IN_FLIGHT: Final = 1 << 16
_RACK: Final = 72  # GPUs of an NVL72


class Ranked(NamedTuple):
    """One layout that can run. `front`: no other gives both more per GPU and more to each user."""

    prediction: Prediction
    meets: bool
    front: bool = False
    warnings: Sequence[str] = ()


class Ranking(NamedTuple):
    """Best first, and what was rejected."""

    ranked: list[Ranked]
    rejected: list[Rejection]

    @property
    def best(self) -> Ranked:
        """The first.

        Raises:
            PlanRefused: no layout can run.
        """
        if not self.ranked:
            raise PlanRefused("no layout can run", [f"{item.layout.label}: {item.reason}" for item in self.rejected])
        return self.ranked[0]


def layouts(model: ModelSpec, gpus: int) -> Iterator[Layout]:
    """Every TP x PP x DP that some GPUs hold, with experts spread and without.

    Of more GPUs than a rack has, only degrees that are products of 2 and 3: all of them would be some hundred thousand.
    """
    for tp in _degrees(min(gpus, model.attention.heads), gpus):
        for pp in _degrees(min(gpus // tp, model.layers), gpus):
            for dp in _degrees(min(gpus // (tp * pp), _MOST_GROUPS), gpus):
                yield Layout(tp=tp, pp=pp, dp=dp)
                if model.experts and 1 < tp * dp <= _MOST_EXPERT_RANKS:
                    yield Layout(tp=tp, pp=pp, dp=dp, ep=tp * dp)


def _degrees(most: int, gpus: int) -> list[int]:
    """Degrees of parallelism up to some number that are tried on some GPUs."""
    if gpus <= _RACK:
        return list(range(1, most + 1))
    return sorted(2**two * 3**three for two in range(13) for three in range(3) if 2**two * 3**three <= most)


def rank(
    model: ModelSpec,
    recipe: Recipe,
    inventory: Inventory,
    demand: Demand,
    *,
    slo: Slo | None = None,
) -> Ranking:
    """All layouts, best first: those that keep the limits, then by tokens a second over the whole inventory.

    Args:
        model: its sizes.
        recipe: engine and arguments; its own layout does not matter.
        inventory: the machines.
        demand: the load.
        slo: limits on TTFT and TPOT.
    """
    limits = slo or Slo()
    ranked, rejected = [], []
    of_recipe = recipe_refusals(recipe, inventory)
    for layout in layouts(model, sum(slots(host, inventory) for host in inventory.hosts)):
        reasons = refusals(model, layout, inventory, recipe, of_recipe=of_recipe)
        met = rules.known_faults(model, layout, inventory, recipe)
        reasons += [fault.sentence() for fault in met if fault.fatal]
        if reasons:
            rejected.append(Rejection(layout=layout, reason="; ".join(reasons)))
            continue
        try:
            seen = predict_on(model, recipe, layout, inventory, demand)
        except InputError as error:
            rejected.append(Rejection(layout=layout, reason=error.what))
            continue
        ranked.append(
            Ranked(
                prediction=seen,
                meets=seen.meets(limits),
                warnings=[fault.sentence() for fault in met],
            )
        )
    order = sorted(ranked, key=_better_first)
    return Ranking(ranked=_front(order), rejected=rejected)


def _better_first(item: Ranked) -> tuple[bool, float, int]:
    """Limits kept, then tokens a second; what is equal to three figures is settled by fewer GPUs."""
    return not item.meets, -float(f"{item.prediction.output_tokens_per_s:.3g}"), item.prediction.gpus


def predict_on(model: ModelSpec, recipe: Recipe, layout: Layout, inventory: Inventory, demand: Demand) -> Prediction:
    """What one layout gives on an inventory, the cache's limit included."""
    case = inputs.case_of(model, recipe, layout, inventory, demand)
    room = inputs.capacity(case, recipe, inventory)
    return predict(case, capacity=room) if demand.rate_per_s is None else _at_rate(case, room, demand.rate_per_s)


def _at_rate(case: Case, capacity: float, rate_per_s: float) -> Prediction:
    """An open loop: as many requests are in flight as keep the rate (Little's law); with a note where none do."""

    def with_users(users: int) -> Prediction:
        return predict(case._replace(demand=case.demand.with_(concurrency=users)), capacity=capacity)

    def requests_per_s(users: int) -> float:
        return with_users(users).output_tokens_per_s / case.demand.osl

    most = max(1, int(min(capacity * case.layout.dp, _MOST_IN_FLIGHT)))
    if (reached := requests_per_s(most)) < rate_per_s:
        seen = with_users(most)
        told = f"{reached:.3g} requests/s at most, and {rate_per_s:.10g} are asked: a queue grows"
        return seen.with_(notes=[*seen.notes, told])
    return with_users(bisect_left(range(1, most), rate_per_s, key=requests_per_s) + 1)


def _front(ranked: list[Ranked]) -> list[Ranked]:
    """Mark the Pareto front of tokens a second for each GPU against tokens a second for each user."""
    rates = [(item.prediction.interactivity, item.prediction.tokens_per_s_per_gpu) for item in ranked]
    best = set(pareto_front(rates))
    return [item._replace(front=rate in best) for item, rate in zip(ranked, rates, strict=True)]


def how_many(
    model: ModelSpec, recipe: Recipe, kind: str, demand: Demand, slo: Slo, *, limit: int = 64
) -> tuple[Inventory, Ranked]:
    """The fewest GPUs of a kind that keep the limits, and the layout that does.

    Raises:
        InputError: none does, with the nearest limits that can be kept.
    """
    each = min(inputs.hardware_of(inputs.what_if(kind, 1, 1)).gpus_per_host, limit)
    seen: list[Ranked] = []
    hosts = 1
    while hosts * each <= limit:
        seen = rank(model, recipe, inputs.what_if(kind, hosts, each), demand, slo=slo).ranked
        if kept := [item for item in seen if item.meets]:
            fewest = min(kept, key=lambda item: (item.prediction.gpus, *_better_first(item)))
            count = fewest.prediction.gpus
            return inputs.what_if(kind, -(-count // each), min(count, each)), fewest
        hosts *= 2
    if not seen:
        raise InputError(f"{model.name} does not fit {limit} {kind}", next="overspan plan --explain shows why")
    raise InputError(f"no layout of up to {limit} {kind} keeps {slo} for {demand.phrase}", next=nearest(seen, slo))


def nearest(ranked: Sequence[Ranked], slo: Slo) -> str:
    """The limits that can be kept, nearest to those that cannot, and the layout that keeps them."""
    one = min((item.prediction for item in ranked), key=lambda seen: _miss(seen, slo))
    # Rounded up: what is offered is kept when it is asked for.
    reachable = f"ttft={math.ceil(one.ttft_ms)},tpot={math.ceil(one.tpot_ms * 10) / 10:g}"
    return f"the nearest is {one.layout.label}: --slo {reachable}"


def _miss(prediction: Prediction, slo: Slo) -> float:
    """By what factor the worst limit is missed."""
    ratios = [prediction.ttft_ms / slo.ttft_ms] if slo.ttft_ms else []
    ratios += [prediction.tpot_ms / slo.tpot_ms] if slo.tpot_ms else []
    return max(ratios, default=0.0)
