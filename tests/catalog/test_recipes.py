"""Recipes and inventories by name or path; every mistake is told at its line."""

import json
from pathlib import Path

import pytest

from overspan.catalog import inventories, overrides, recipes
from overspan.runs.planning import Wanted, plan_of
from overspan.schema.defaults import LOOPBACKS
from overspan.schema.errors import RecipeError, UnknownName
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import dump


@pytest.mark.parametrize("name", recipes.names())
def test_what_ships_is_right_and_round_trips(name: str, tmp_path: Path) -> None:
    recipe = recipes.find(name)
    assert recipe.name == name
    file = tmp_path / "again.yaml"
    file.write_text(dump(recipe))
    assert recipes.find(str(file)) == recipe


@pytest.mark.parametrize("name", inventories.names())
def test_inventories_that_ship(name: str) -> None:
    assert inventories.find(name).name == name


def test_two_sparks_is_the_seeds_pair() -> None:
    pair = inventories.find("two-sparks")
    fabrics = [host.fabric for host in pair.hosts]
    assert [(fabric.interface, fabric.address) for fabric in fabrics if fabric] == [
        ("enp1s0f0np0", "10.10.10.1"),
        ("enp1s0f0np0", "10.10.10.2"),
    ]


def test_minimax_recipe_holds_the_seeds_table() -> None:
    recipe = recipes.find("minimax-m2.5-nvfp4")
    assert (recipe.layout.label, recipe.port, recipe.image) == ("tep2", 8888, "avarok/dgx-vllm-nvfp4-kernel:v22")
    args = recipe.engine_args
    assert (args["max_model_len"], args["gpu_memory_utilization"], args["max_num_seqs"]) == (4096, 0.85, 32)
    assert set(recipe.variants) == {"cutlass", "cuda-graphs", "pp2", "ngram"}
    graphs = overrides.apply(recipe, ["variant=cuda-graphs"])
    assert "enforce_eager" not in graphs.engine_args
    assert "RayChannelTimeoutError" in graphs.warnings[0]
    assert "VLLM_NVFP4_GEMM_BACKEND" not in overrides.apply(recipe, ["variant=cutlass"]).env


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean smollm2-135m"):
        recipes.find("smolm2-135m")
    with pytest.raises(UnknownName, match="did you mean two-sparks"):
        inventories.find("two-spark")


def test_any_model_id_or_folder_makes_a_recipe(tmp_path: Path) -> None:
    assert recipes.find("Qwen/Qwen3-0.6B").model == "Qwen/Qwen3-0.6B"
    assert recipes.find("Qwen/Qwen3-0.6B").name == "qwen3-0.6b"
    folder = tmp_path / "My Model"
    folder.mkdir()
    with pytest.raises(RecipeError, match=r"no config\.json"):
        recipes.find(str(folder))
    (folder / "config.json").write_text("{}")
    assert recipes.find(str(folder)).model == str(folder)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("engine_args:\n  gpu_memory_utilisation: 0.8\n", "line 4, column 3: unknown engine argument"),
        ("engine_args:\n  gpu_memory_utilization: 9.5\n", "line 4, column 3: .* must be 0.1 to 1"),
        ("engine_args:\n  tensor_parallel_size: 2\n", "set layout.tp"),
        ("prot: 8001\n", "unknown key 'prot': did you mean port"),
        ("port: 99999\n", "line 3, column 1: 'port'"),
        ("port: [1\n", "line 4, column 1"),
        ("layout: tq2\n", "layout 'tq2' does not parse"),
        ("env: {HF_TOKEN: hf_abc}\n", "HF_TOKEN is a secret"),
        ("env: {WANDB_API_KEY: hf_abc}\n", "WANDB_API_KEY is a secret"),
        ("secrets: [WANDB-KEY]\n", "the name of an environment variable"),
        ("variants: {fast: {env: {HF_TOKEN: hf_abc}}}\n", "env of variant fast: HF_TOKEN is a secret"),
        ("roles: {prefill: {env: {HF_TOKEN: hf_abc}}}\n", "env of role prefill: HF_TOKEN is a secret"),
        ("roles: {prefill: {engine_args: {hf_token: hf_abc}}}\n", "line 3, column .*would show a secret in argv"),
        ("roles: {decode: {engine_args: {max_num_seq: 1}}}\n", "did you mean max_num_seqs"),
        ("variants: {fast: {prot: 1}}\n", "variant fast of x: unknown key 'prot'"),
        ("variants: {fast: {engine_args: {max_num_seq: 1}}}\n", "did you mean max_num_seqs"),
    ],
)
def test_mistakes_in_a_file(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: x\nmodel: a/b\n" + body)
    with pytest.raises(RecipeError, match=said) as caught:
        recipes.find(str(file))
    assert "hf_abc" not in str(caught.value)


@pytest.mark.parametrize("options", [["--env=HF_TOKEN=hf_abc"], ["-e", "HF_TOKEN=hf_abc"], ["-eHF_TOKEN=hf_abc"]])
def test_a_secret_among_the_container_options_of_an_inventory(options: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    host = {"name": "n", "memory_bytes": 1, "container": {"options": ["--privileged", *options]}}
    file.write_text(json.dumps({"launcher": "docker", "hosts": [host]}))
    with pytest.raises(RecipeError, match=r"container\.options of host n: HF_TOKEN is a secret") as caught:
        inventories.find(str(file))
    assert "hf_abc" not in str(caught.value)
    file.write_text(file.read_text().replace("HF_TOKEN=", "NCCL_DEBUG="))
    assert inventories.find(str(file)).hosts[0].container is not None


def test_file_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match="No such file"):
        recipes.find("nowhere.yaml")


SHIPPED = [recipes.find(name) for name in recipes.names()]
EVERY = [*SHIPPED, *(overrides.with_variant(each, name) for each in SHIPPED for name in each.variants)]


@pytest.mark.parametrize("recipe", EVERY, ids=lambda each: each.name)
def test_who_is_reached_from_outside_asks_for_a_key_and_nobody_runs_code_in_silence(recipe: Recipe) -> None:
    assert recipe.host in LOOPBACKS or recipe.api_key
    on = {"smollm2-135m": "laptop", "minimax-m3-mxfp8": "gb200-nvl72", "minimax-m2.5-fp8": "h200-x8"}
    notes = plan_of(Wanted(recipe.name, on.get(recipe.name, "two-sparks")), to_start=False).notes
    assert [note for note in notes if note.startswith("who can use the endpoint: ")]
    runs_code = bool(recipe.engine_args.get("trust_remote_code")) and recipe.revision is None
    assert any(note.startswith("trust_remote_code runs") for note in notes) is runs_code


def test_an_alias_inside_its_own_anchor_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "circle.yaml"
    file.write_text("name: b\nmodel: x/y\nengine_args: &a\n  hf_overrides: *a\n")
    with pytest.raises(RecipeError, match="an alias stands inside its own anchor"):
        recipes.find(str(file))
