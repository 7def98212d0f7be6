"""A plan says what each rank needs and what a user will see, and is refused where it cannot run."""

import pytest

from overspan.catalog import inventories, overrides, recipes
from overspan.engines import vllm
from overspan.planner.make import make_plan
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.slo import Slo

ENGINE = EngineChoice(name="vllm", version="0.32.0")


def plan(recipe: str, *settings: str, on: str = "two-sparks") -> Plan:
    return make_plan(overrides.apply(recipes.find(recipe), settings), inventories.find(on), ENGINE)


def test_memory_and_prediction_stand_in_the_plan() -> None:
    made = plan("minimax-m2.5-nvfp4")
    assert made.memory_per_rank["weights"] == pytest.approx(67.25e9, rel=0.01)
    assert sum(made.memory_per_rank.values()) - made.memory_per_rank["budget"] < made.memory_per_rank["budget"]
    assert made.prediction
    assert sum(made.prediction.terms.values()) == pytest.approx(made.prediction.tpot_ms)
    assert any("tok/s a user" in note for note in made.notes)
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_a_plan_says_what_was_rejected_where_it_chose_the_layout() -> None:
    bare = recipes.for_model("minimax-m2.5-fp8").with_(model=recipes.find("minimax-m2.5-fp8").model)
    made = make_plan(bare, inventories.find("h200-x8"), ENGINE)
    reasons = {item.layout.label: item.reason for item in made.rejected}
    assert "blocks of 128 do not divide" in reasons["tp8"]
    assert made.layout.label not in reasons
    assert len(made.rejected) <= 50
    assert plan("minimax-m2.5-nvfp4", "layout=tp2").rejected == []


def test_a_topology_of_one_role_is_planned_as_its_layout() -> None:
    one, other = plan("minimax-m2.5-nvfp4", "topology=TEP2"), plan("minimax-m2.5-nvfp4", "layout=tep2")
    assert one == other


def test_limits_that_are_not_checked_are_noted() -> None:
    apart = overrides.apply(recipes.find("minimax-m3-mxfp8"), ["topology=1P1D DEP4->TEP8"])
    made = make_plan(apart, inventories.find("gb200-nvl72"), ENGINE, slo=Slo(tpot_ms=1))
    assert "nothing is predicted, so TPOT 1 ms is not checked" in made.notes
    with pytest.raises(InputError, match="no layout here keeps TPOT 1 ms for 1 user, "):
        make_plan(recipes.find("minimax-m2.5-nvfp4"), inventories.find("two-sparks"), ENGINE, slo=Slo(tpot_ms=1))


def test_known_faults_are_notes() -> None:
    made = plan("minimax-m2.5-nvfp4", "variant=pp2", "engine=vllm-ray")
    assert any("crashed on its second request (Avarok's MiniMax-M2.5 guide" in note for note in made.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["MODEL=MiniMaxAI/MiniMax-M2.5"], "115.1 weights"),
        (["image=x:${TAG}"], "which nothing fills in"),
        (["layout=tp3"], "tp3 needs 3 GPUs"),
    ],
)
def test_refused(settings: list[str], said: str) -> None:
    with pytest.raises(PlanRefused) as caught:
        plan("minimax-m2.5-nvfp4", *settings)
    assert any(said in reason for reason in caught.value.reasons)


def test_unknown_model_is_planned_without_sizes() -> None:
    made = plan("minimax-m2.5-nvfp4", "model=someone/absent")
    assert made.prediction is None
    assert made.memory_per_rank == {}


def laptop(**fields: object) -> Inventory:
    known = inventories.find("laptop")
    return known.with_(hosts=[known.hosts[0].with_(**fields)])


@pytest.mark.parametrize(
    ("host", "settings", "dtype"),
    [
        ({"cpu_bf16": False}, [], "float32"),
        ({"cpu_bf16": True}, [], None),
        ({"cpu_bf16": None}, [], None),
        ({"cpu_bf16": False}, ["dtype=bfloat16"], None),
        # 0.27 GB of weights fit beside the rest, twice that does not.
        ({"cpu_bf16": False, "memory_bytes": 2_200_000_000}, [], None),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32_where_that_fits(
    host: dict[str, object], settings: list[str], dtype: str | None
) -> None:
    made = make_plan(overrides.apply(recipes.find("smollm2-135m"), settings), laptop(**host), ENGINE)
    assert made.dtype == dtype
    argv = vllm.ENGINE.processes(made)[0].argv
    assert ("float32" in argv) == (dtype == "float32")
    assert (made.memory_per_rank["weights"] > 5e8) == (dtype == "float32")
