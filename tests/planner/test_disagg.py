"""Prefill and decode apart: queue and pace are exact where formulas are, and more workers never hurt."""

import pytest

from overspan.cli.output import table
from overspan.planner import answer, disagg, inputs
from overspan.planner.disagg import Side, _meet
from overspan.schema.errors import InputError
from overspan.schema.layout import Layout
from overspan.schema.slo import Slo
from overspan.schema.workload import Demand

SIDE = Side(layout=Layout(), prompt_ms=100.0, capacity=1000.0)


def meet(x: int, users: int, osl: float = 100, step_ms: float = 10.0) -> disagg.Disaggregated:
    return _meet((SIDE, x), (SIDE.layout, 1), step_ms, Demand(isl=100, osl=osl, concurrency=users), Slo())


def test_one_user_never_waits() -> None:
    """M/D/1 counts arrivals as random; one user in a long cycle finds the worker nearly idle."""
    assert meet(1, 1, osl=10_000).ttft_ms == pytest.approx(100, rel=0.01)


def test_queue_is_m_d_1_below_saturation() -> None:
    seen = meet(1, 5)
    wait = 100 * seen.prefill_busy / (2 * (1 - seen.prefill_busy))
    assert seen.prefill_busy < 0.95
    assert seen.ttft_ms == pytest.approx(100 + wait, rel=0.01)


def test_saturated_prefill_sets_the_pace() -> None:
    seen = meet(1, 100)
    assert seen.prefill_busy == pytest.approx(0.95, rel=0.01)
    assert seen.output_tokens_per_s == pytest.approx(0.95 * 10 * 100, rel=0.01)


def test_users_are_conserved() -> None:
    seen = meet(2, 16)
    cycle_s = (seen.ttft_ms + 100 * seen.tpot_ms) / 1e3
    assert seen.output_tokens_per_s * cycle_s == pytest.approx(16 * 100)


def test_more_prefill_workers_never_hurt() -> None:
    waits = [meet(x, 64).ttft_ms for x in (1, 2, 4, 8)]
    assert waits == sorted(waits, reverse=True)


def test_ranked_within_the_machines_and_the_limits() -> None:
    question = answer.PlanQuestion(
        name="minimax-m2.5",
        settings=("max_model_len=16384", "kv_cache_dtype=fp8"),
        gpu="b200",
        gpus=8,
        demand=Demand(isl=8192, osl=1024, concurrency=64),
        slo="ttft=2000,tpot=30",
        disaggregated=True,
    )
    found = answer.answer(question)
    assert all(item.gpus <= 8 for item in found.pairs)
    assert found.pairs[0].meets
    assert "->" in answer.as_text(found, table)
    recipe, model = inputs.resolve("minimax-m2.5", question.settings)
    with pytest.raises(InputError, match="side by side"):
        disagg.rank_disaggregated(model, recipe, inputs.what_if("b200", 1, 1), question.demand or Demand(), slo=Slo())
