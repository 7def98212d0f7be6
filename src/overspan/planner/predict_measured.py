"""Predictions for points that were measured: the case that each of them was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from overspan.catalog import models
from overspan.planner import inputs
from overspan.planner.features import Case
from overspan.planner.predict import predict
from overspan.schema.errors import InputError, ModelUnavailable
from overspan.schema.hardware import HardwareSpec
from overspan.schema.plan import Plan
from overspan.schema.prediction import Prediction
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint, BenchResult, Demand


class Beside(NamedTuple):
    """One measured point of a closed loop, and the case that predicts it. Times are ms, of the same window.

    `seen` says which statistic they are: `mean of 8 requests, whole run`.
    """

    point: BenchPoint
    case: Case
    capacity: float
    tpot_ms: float | None
    ttft_ms: float | None
    seen: str = ""

    def predicted(self) -> Prediction:
        """What the planner says of it."""
        return predict(self.case, capacity=self.capacity)


def points(plan: Plan, bench: BenchResult, hardware: HardwareSpec | None = None) -> list[Beside]:
    """The measured points that the planner can say something of.

    Args:
        plan: of the run.
        bench: what was measured.
        hardware: in place of what the run's inventory says.

    Raises:
        InputError: nothing can be said of this run at all, and why.
    """
    try:
        model = models.lookup(plan.model_path or plan.recipe.model) or models.lookup(plan.recipe.model)
    except ModelUnavailable as error:
        raise InputError(f"no prediction: {error.what}") from None
    if model is None:
        raise InputError(f"no prediction: the sizes of {plan.recipe.model} are not known")
    found = []
    for point, demand in _demands(bench):
        case = inputs.case_of(model, plan.recipe, plan.layout, plan.inventory, demand)
        if hardware is not None:
            case = case._replace(hardware=hardware)
        window = point.settled if demand.window == "steady" else None
        held, requests = window or point, window.requests if window else point.requests.ok
        room = inputs.capacity(case, plan.recipe, plan.inventory)
        told = f"mean of {count(requests, 'request')}, {'steady window' if window else 'whole run'}"
        found.append(Beside(point, case, room, held.tpot_ms.mean, held.ttft_ms.mean, told))
    return found


def _demands(bench: BenchResult) -> Iterator[tuple[BenchPoint, Demand]]:
    """The load of each point of a closed loop; an open loop has no number of users to predict with.

    It is that of the whole run. Where the server stood still, the steady window without those times is taken instead.
    """
    load = bench.workload
    for point in bench.points:
        if point.rate_per_s is None and point.requests.ok and point.output_tokens_per_s:
            asked = load.demand(point.concurrency)
            # What was really sent and generated: an answer may end before its limit.
            made = point.output_tokens_per_s * (point.duration_s or 0.0) / point.requests.ok
            osl = made if made >= 1 else load.output_tokens
            yield (
                point,
                asked.with_(
                    isl=_prompt_tokens(point) or asked.isl,
                    osl=osl,
                    rounds=max(1.0, point.requests.ok / point.concurrency),
                    in_step=asked.in_step and osl > load.output_tokens - 1,
                    window="steady" if point.disturbed and point.settled else "whole",
                ),
            )


def _prompt_tokens(point: BenchPoint) -> float | None:
    """Of a request, as the server counted them."""
    return point.input_lengths.got.mean if point.input_lengths else None
