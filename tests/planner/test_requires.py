"""Engine features as data: what a recipe requires is refused with since when it exists, or which patch brings it."""

from pathlib import Path

import pytest

from overspan.catalog import inventories, overrides, recipes, releases
from overspan.planner import rules
from overspan.planner.make import make_plan
from overspan.schema.errors import PlanRefused, RecipeError
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.recipe import Patch, Recipe

SPARKS = inventories.find("two-sparks")


def plan(recipe: Recipe, image: str | None = None) -> Plan:
    changed = overrides.apply(recipe, [f"image={image}"] if image else [])
    engine = EngineChoice(name="vllm", version="0.32.0", image=changed.image)
    return make_plan(changed, SPARKS, engine)


@pytest.fixture
def pp2() -> Recipe:
    return overrides.with_variant(recipes.find("minimax-m2.5-nvfp4"), "pp2")


def test_a_variant_adds_to_what_the_recipe_requires(pp2: Recipe) -> None:
    assert pp2.requires == ["moe.marlin.nvfp4", "minimax-m2.pipeline", "minimax-m2.pipeline.nvfp4"]


def test_an_engine_that_is_too_old_is_refused_with_the_sentence_of_the_catalogue(pp2: Recipe) -> None:
    with pytest.raises(PlanRefused) as refused:
        plan(pp2, "vllm/vllm-openai:v0.11.0")
    (reason,) = [each for each in refused.value.reasons if "requires minimax-m2.pipeline (" in each]
    assert reason == (
        "the recipe requires minimax-m2.pipeline (pipeline stages of MiniMax-M2 (SupportsPP)), and image "
        "vllm/vllm-openai:v0.11.0 (vLLM 0.11.0) lacks it: vLLM has it since 0.11.1"
    )
    (patched,) = [each for each in refused.value.reasons if "minimax-m2.pipeline.nvfp4" in each]
    assert patched.endswith(
        "since 0.26.0; the patch https://github.com/vllm-project/vllm/pull/33303 brings it to others"
    )


def test_an_engine_that_has_it_is_planned(pp2: Recipe) -> None:
    notes = plan(pp2, "vllm/vllm-openai:v0.32.0").notes
    assert not [note for note in notes if "requires" in note]


def test_an_image_of_unknown_version_is_planned_with_a_note_of_what_nobody_knows(pp2: Recipe) -> None:
    assert releases.engine_version(pp2.image) is None
    notes = [note for note in plan(pp2).notes if "the recipe requires" in note]
    # The image's own log shows Marlin; the pipeline nobody has shown.
    assert [note.split()[3] for note in notes] == ["minimax-m2.pipeline;", "minimax-m2.pipeline.nvfp4;"]
    assert all("is not known" in note for note in notes)


def test_a_feature_of_no_release_is_refused_with_its_patch() -> None:
    recipe = recipes.find("minimax-m2.5-nvfp4").with_(requires=["moe.marlin.sm12x"])
    with pytest.raises(PlanRefused, match=r"no release is known to have it; the patch https://.*/pull/40923"):
        plan(recipe, "vllm/vllm-openai:v0.32.0")


@pytest.mark.parametrize("launcher", ["docker", "local"])
def test_a_patch_of_the_recipe_itself_brings_the_feature_of_its_name(launcher: str) -> None:
    own = Patch(name="moe.marlin.sm12x", file="vllm/x.py", anchor="a", replacement="b", source="pull 40923")
    recipe = Recipe(name="x", model="a/b", image="vllm/vllm-openai:v0.32.0", requires=["moe.marlin.sm12x"])
    engine = EngineChoice(name="vllm", version="0.32.0", image=recipe.image)
    machines = SPARKS.with_(launcher=launcher)
    assert list(rules.missing_features(recipe, machines, engine))
    patched = recipe.with_(patches=[own])
    assert list(rules.missing_features(patched, machines, engine)) == []
    unknown = engine.with_(image="a/b:c")
    assert list(rules.unsure_features(patched, machines, unknown)) == []


def test_an_unknown_feature_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: x\nmodel: a/b\nrequires: [minimax-m2.pipelines]\n")
    with pytest.raises(RecipeError, match=r"requires: unknown engine feature .*: did you mean minimax-m2.pipeline"):
        recipes.find(str(path))


def test_every_feature_has_its_source_and_a_way_to_it() -> None:
    for feature in releases.catalogue().values():
        assert feature.source
        assert feature.since or feature.patch, feature.name
        assert feature.missing(None) is False
    for image in releases._images():
        assert all(name in releases.catalogue() for name in releases.brings(image))
