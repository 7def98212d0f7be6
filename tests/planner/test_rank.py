"""All layouts of an inventory: ranked, or rejected with the reason."""

import pytest

from overspan.catalog import inventories, models
from overspan.cli.output import table
from overspan.planner import answer, inputs, rank, rules
from overspan.planner.answer import PlanQuestion
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.layout import parse_layout
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.workload import Demand

H200 = inputs.what_if("h200", 1, 8)
FP8 = Recipe(name="m", model="minimax-m2.5", engine_args={"max_model_len": 8192})


def ranking(slo: Slo | None = None) -> rank.Ranking:
    return rank.rank(models.find("minimax-m2.5"), FP8, H200, Demand(isl=1024, osl=1024, concurrency=64), slo=slo)


def test_every_layout_is_ranked_or_rejected_once() -> None:
    found = ranking()
    held = [item.prediction.layout for item in found.ranked] + [item.layout for item in found.rejected]
    assert len(held) == len(set(held)) == len(list(rank.layouts(models.find("minimax-m2.5"), 8)))
    reasons = {item.layout.label: item.reason for item in found.rejected}
    assert "blocks of 128 do not divide" in reasons["tp8"]
    assert "does not fit" in reasons["tp1"]
    assert "tep8" not in reasons


def test_best_first_and_front() -> None:
    found = ranking()
    speeds = [float(f"{item.prediction.output_tokens_per_s:.3g}") for item in found.ranked]
    assert speeds == sorted(speeds, reverse=True)
    front = [item.prediction for item in found.ranked if item.front]
    assert front
    for item in found.ranked:
        beaten = [
            one
            for one in front
            if one.interactivity >= item.prediction.interactivity
            and one.tokens_per_s_per_gpu > item.prediction.tokens_per_s_per_gpu
        ]
        assert item.front is not bool(beaten)


def test_limits_come_first() -> None:
    free = ranking()
    limit = min(item.prediction.tpot_ms for item in free.ranked) * 1.02
    found = ranking(Slo(tpot_ms=limit))
    assert found.best.meets
    kept = [item.meets for item in found.ranked]
    assert kept == sorted(kept, reverse=True)
    assert not all(kept)


def test_a_limit_on_the_first_token_alone_decides() -> None:
    free = ranking()
    limit = min(item.prediction.ttft_ms for item in free.ranked) * 1.02
    found = ranking(Slo(ttft_ms=limit))
    assert [item.meets for item in found.ranked] == [item.prediction.ttft_ms <= limit for item in found.ranked]
    assert found.best.meets
    assert not all(item.meets for item in found.ranked)
    assert found.best.prediction.layout != free.best.prediction.layout


def test_fewest_gpus_that_keep_a_limit() -> None:
    model = models.find("minimax-m2.5")
    machines, best = rank.how_many(model, FP8, "h200", Demand(concurrency=16), Slo(tpot_ms=20))
    assert best.meets
    assert best.prediction.tpot_ms <= 20
    fewer = inputs.what_if("h200", 1, len(machines.hosts[0].gpus) // 2)
    assert not any(
        item.meets for item in rank.rank(model, FP8, fewer, Demand(concurrency=16), slo=Slo(tpot_ms=20)).ranked
    )


def test_impossible_limit_names_the_nearest() -> None:
    with pytest.raises(InputError, match="no layout of up to 8 h200 keeps TPOT 1 ms for 16 users") as caught:
        rank.how_many(models.find("minimax-m2.5"), FP8, "h200", Demand(concurrency=16), Slo(tpot_ms=1), limit=8)
    assert "--slo ttft=" in str(caught.value.next)


def test_nothing_fits() -> None:
    found = rank.rank(models.find("minimax-m2.5"), FP8, inputs.what_if("l40s", 1, 1), Demand())
    with pytest.raises(PlanRefused, match="tp1 does not fit"):
        _ = found.best


def test_known_faults_reject_and_warn() -> None:
    pair = inventories.find("two-sparks")
    recipe, model = inputs.resolve("minimax-m2.5-nvfp4", ["engine=vllm-ray", "enforce_eager=false"])
    found = rank.rank(model, recipe, pair, Demand(concurrency=1))
    reasons = {item.layout.label: item.reason for item in found.rejected}
    assert "crashed on its second request (Avarok's MiniMax-M2.5 guide" in reasons["pp2"]
    assert any("RayChannelTimeoutError" in warning for warning in found.best.warnings)
    native, _ = inputs.resolve("minimax-m2.5-nvfp4")
    assert "pp2" in [item.prediction.layout.label for item in rank.rank(model, native, pair, Demand()).ranked]
    assert rules.known_faults(model, parse_layout("tp2"), pair, native) == []


def test_same_question_over_the_command_line_document() -> None:
    asked = PlanQuestion(name="minimax-m2.5", gpu="h200", gpus=8, layout=parse_layout("tep8"), slo="ttft=2000,tpot=30")
    found = answer.answer(asked)
    assert found.layouts[0].item.meets
    assert {"tpot_ms", "ttft_ms", "bound", "terms", "interval"} <= set(found.as_json())
    assert "tep8" in answer.as_text(found, table)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (PlanQuestion(name="minimax-m2.5"), "give --on INVENTORY, or --gpu KIND"),
        (
            PlanQuestion(name="minimax-m2.5", gpu="h200", inventory="laptop"),
            "give --on INVENTORY, or --gpu KIND",
        ),
        (PlanQuestion(name="minimax-m2.5", gpu="h200", slo="fast"), "'fast' is not a limit"),
        (PlanQuestion(name="minimax-m2.5", gpu="h200", slo="tpot=-3"), "'tpot=-3' is not a limit"),
        (PlanQuestion(name="minimax-m2.5", gpu="h200", how_many=True), "--how-many needs --gpu and --slo"),
        (
            PlanQuestion(name="minimax-m2.5", gpu="h200", layout=parse_layout("tp8")),
            "tp8 cannot run on 1x8-h200",
        ),
        (PlanQuestion(name="someone/absent", gpu="h200"), "the sizes of someone/absent are not known"),
        (PlanQuestion(name="minimax-m2.5", gpu="h2000"), "unknown hardware 'h2000'"),
    ],
)
def test_wrong_questions(question: PlanQuestion, said: str) -> None:
    with pytest.raises(InputError) as caught:
        answer.answer(question)
    assert said in caught.value.what


def test_more_gpus_than_a_layout_may_have_ranks() -> None:
    """64 racks: no degree beyond what a layout may have, and not every one of the hundred thousand is tried."""
    found = list(rank.layouts(models.find("minimax-m2.5"), 4608))
    assert max(layout.dp for layout in found) == 1024
    assert max(layout.ep for layout in found) <= 4096
    assert 100 < len(found) < 10_000
    few = {(one.tp, one.pp, one.dp) for one in rank.layouts(models.find("minimax-m2.5"), 8)}
    assert {(1, 1, 5), (7, 1, 1), (1, 7, 1)} <= few
