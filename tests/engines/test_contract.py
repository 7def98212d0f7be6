"""What holds of every engine that is built in, and may be expected of one of another package."""

import pytest

from overspan.engines import registry
from overspan.engines.base import Engine
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.errors import UnknownName
from overspan.schema.plan import Plan
from overspan.schema.recipe import BUILT_IN_ENGINES

APART = ("topology=1P1D TP1->TP1",)


def plan_for(engine: str, on: str) -> Plan:
    image = ("image=vllm/vllm-openai:v0.32.0",) if on == "two-sparks" else ()
    apart = APART if engine == "dynamo" else ()
    layout = ("layout=pp2",) if on == "two-sparks" and not apart else ()
    settings = (f"engine={engine}", *(() if apart else ("api_key=true",)), *image, *apart, *layout)
    return plan_of(Wanted("smollm2-135m", on, settings), to_start=False)


@pytest.mark.parametrize("name", BUILT_IN_ENGINES)
@pytest.mark.parametrize("on", ["laptop", "two-sparks"])
def test_the_first_process_answers_and_all_are_what_a_launcher_can_start(name: str, on: str) -> None:
    engine, plan = registry.find(name), plan_for(name, on)
    specs = processes_of(plan)
    assert isinstance(engine, Engine) and engine.name == name == plan.engine.name
    assert specs[0].ports["api"] == plan.endpoint.port and specs[0].host == plan.head
    assert len({spec.name for spec in specs}) == len(specs)
    assert {spec.host for spec in specs} == {each.host for each in plan.placements}
    assert {rank for spec in specs for rank in spec.ranks} == {rank for each in plan.placements for rank in each.ranks}
    for spec in specs:
        assert spec.words and all(isinstance(word, str) and word for word in spec.words)
        assert set(spec.secrets) <= {engine.key_variable, *engine.tokens}
    assert (engine.key_variable in specs[0].secrets) is plan.recipe.api_key
    assert specs == processes_of(plan)  # pure: the same plan gives the same processes


def test_an_engine_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(UnknownName, match="did you mean vllm") as refused:
        registry.find("vlm")
    assert refused.value.next == "known: dynamo, vllm, vllm-ray"
