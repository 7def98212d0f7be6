"""`--weights synthetic`: what is planned in place of a checkpoint, and that a real engine answers with it."""

import json
from pathlib import Path
from typing import Any

import pytest

from overspan.runs.planning import Wanted, plan_of, processes_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def planned(recipe: str, **changes: Any) -> Any:
    return plan_of(Wanted(recipe, "two-sparks", weights="synthetic", **changes), to_start=False)


def test_the_folder_holds_the_real_sizes_the_plugin_and_no_weights() -> None:
    plan = planned("minimax-m2.5-nvfp4")
    folder = Path(plan.recipe.model)
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_hidden_layers"], config["hidden_size"]) == (62, 3072)
    assert list(folder.glob("plugin/overspan_vllm_plugin-*.dist-info/entry_points.txt"))
    assert not list(folder.rglob("*.safetensors"))
    assert not [left for left in folder.parent.iterdir() if left.name.startswith("tmp")]


def test_every_rank_gets_the_load_format_and_the_plugin_and_the_name_stays() -> None:
    real = plan_of(Wanted("minimax-m2.5-nvfp4", "two-sparks"), to_start=False)
    plan = planned("minimax-m2.5-nvfp4")
    assert plan.endpoint == real.endpoint
    assert plan.recipe.known_answers == []
    assert plan.memory_per_rank["weights"] == pytest.approx(real.memory_per_rank["weights"], rel=0.01)
    for spec in processes_of(plan):
        assert spec.argv[spec.argv.index("--load-format") + 1] == "synthetic"
        assert spec.env["PYTHONPATH"] == f"{plan.recipe.model}/plugin"


def test_a_path_that_the_recipe_sets_stays_behind_the_plugin() -> None:
    plan = planned("minimax-m2.5-nvfp4", settings=("env.PYTHONPATH=/opt/more",))
    assert plan.recipe.env["PYTHONPATH"].endswith("/plugin:/opt/more")


@pytest.mark.parametrize(("model", "inventory"), [("gpt-oss-120b", "two-sparks"), ("minimax-m3-mxfp8", "gb300-nvl72")])
def test_an_architecture_without_an_entry_of_its_own_is_planned_and_said(model: str, inventory: str) -> None:
    real = plan_of(Wanted(model, inventory), to_start=False)
    plan = plan_of(Wanted(model, inventory, weights="synthetic"), to_start=False)
    assert (Path(plan.recipe.model) / "tokenizer.json").is_file()
    assert plan.endpoint.model == real.endpoint.model
    assert any("config.json is what the catalogue states" in note for note in plan.notes)
