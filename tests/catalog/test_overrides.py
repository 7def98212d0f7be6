"""`--set`: every override of the seeds' tables, and wrong ones refused with the right ones named."""

from typing import Any

import pytest

from overspan.catalog import overrides, recipes
from overspan.schema.errors import OverspanError, RecipeError
from overspan.schema.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return recipes.find("minimax-m2.5-nvfp4")


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("PORT=8889", "port", 8889),
        ("image=other:v1", "image", "other:v1"),
        ("MODEL=a/b", "model", "a/b"),
        ("engine=vllm-ray", "engine", "vllm-ray"),
        ("restart=3", "restart", 3),
        ("api_key=true", "api_key", True),
    ],
)
def test_fields(recipe: Recipe, setting: str, field: str, value: Any) -> None:
    assert getattr(overrides.apply(recipe, [setting]), field) == value


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("MAX_MODEL_LEN=2048", "max_model_len", 2048),
        ("max-model-len=2048", "max_model_len", 2048),
        ("GPU_MEMORY_UTIL=0.80", "gpu_memory_utilization", 0.8),
        ("MAX_NUM_SEQS=16", "max_num_seqs", 16),
        ("engine_args.seed=7", "seed", 7),
        ("compilation_config.cudagraph_mode=NONE", "compilation_config", {"cudagraph_mode": "NONE"}),
        ("revision=main", "revision", None),
    ],
)
def test_engine_args(recipe: Recipe, setting: str, name: str, value: Any) -> None:
    assert overrides.apply(recipe, [setting]).engine_args.get(name) == value


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        (["layout=tp2"], "tp2"),
        (["tp=4"], "tep4"),
        (["TENSOR_PARALLEL=4", "ep=1"], "tp4"),
        (["tensor_parallel_size=1", "dp=2"], "dep2"),
        (["pp=2", "tp=1", "ep=false"], "pp2"),
        (["layout=tp2", "ep=true"], "tep2"),
    ],
)
def test_layouts(recipe: Recipe, settings: list[str], label: str) -> None:
    assert overrides.apply(recipe, settings).layout.label == label


def test_environment_keeps_case_and_text(recipe: Recipe) -> None:
    assert overrides.apply(recipe, ["env.Foo=08"]).env["Foo"] == "08"


def test_a_set_value_wins_over_a_variant_whatever_the_order(recipe: Recipe) -> None:
    assert overrides.apply(recipe, ["layout=tp2", "variant=pp2"]).layout.label == "tp2"


def test_null_takes_a_value_away(recipe: Recipe) -> None:
    assert "enforce_eager" not in overrides.apply(recipe, ["enforce_eager=null"]).engine_args
    assert "attention_backend" not in overrides.apply(recipe, ["attention_backend=null"]).engine_args


def test_numbers_in_json_are_numbers(recipe: Recipe) -> None:
    scaled = overrides.apply(recipe, ['hf_overrides={"rope_theta": 1e6}']).engine_args["hf_overrides"]
    assert scaled == {"rope_theta": 1e6}  # text, as YAML has it


def test_another_model_drops_what_described_the_first() -> None:
    changed = overrides.apply(recipes.find("smollm2-135m"), ["model=a/b"])
    assert changed.package is None
    assert changed.public_name == "a/b"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/me/models/Llama-3.1-8B", "Llama-3.1-8B"),
        ("/home/me/models/Llama-3.1-8B/", "Llama-3.1-8B"),
        ("~/Qwen3", "Qwen3"),
        ("./m", "m"),
        ("/c/hub/models--Qwen--Qwen3-0.6B/snapshots/0123abcd", "Qwen/Qwen3-0.6B"),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/", "/"),
    ],
)
def test_the_name_of_a_folder_in_the_api_is_not_its_path(model: str, name: str) -> None:
    assert Recipe(name="m", model=model).public_name == name
    assert Recipe(name="m", model=model, served_model_name="x").public_name == "x"


@pytest.mark.parametrize(
    ("setting", "said", "then"),
    [
        ("gpu_memory_utilisation=0.8", "did you mean gpu_memory_utilization?", "or an argument of the engine"),
        ("gpu_memory_utilization=9.5", "must be 0.1 to 1", None),
        ("prot=1", "did you mean port", None),
        ("port=99999", "'port'", "allowed: 0 to 65535"),
        ("port=abc", "'port'", "allowed: 0 to 65535"),
        ("engine=vlm", "expected 'vllm', 'vllm-ray' or 'dynamo'; did you mean vllm?", None),
        ("variant=cutlas", "did you mean cutlass?", "cuda-graphs"),
        ("HEAD_IP=10.0.0.1", "belongs to the inventory", "hosts[0].fabric.address"),
        ("tp=0", "'tp' takes a whole number", None),
        ("ep=3", "ep must be 1 or tp*dp = 2", None),
        ("layout=tq2", "does not parse", "tep2"),
        ("nonsense", "expected NAME=VALUE", "--set port=8889"),
        ("enforce_eager=maybe", "takes true or false", None),
        ("max_num_seqs.x=1", "holds one value, not keys", None),
        ("env.A B=1", "not a name of an environment variable", None),
        ("layout.xp=2", "unknown degree of a layout", None),
    ],
)
def test_refusals(recipe: Recipe, setting: str, said: str, then: str | None) -> None:
    with pytest.raises(OverspanError) as caught:
        overrides.apply(recipe, [setting])
    assert caught.value.exit_code == 2
    assert said in caught.value.what
    assert then is None or then in (caught.value.next or "")


@pytest.mark.parametrize(
    "setting",
    [
        "api_key=s3cret",
        "env.HF_TOKEN=s3cret",
        "hf_token=s3cret",
        'env={"HF_TOKEN": "s3cret"}',
        'env={"HF_TOKEN": ["s3cret"]}',
        'engine_args={"api_key": "s3cret"}',
        'roles={"decode": {"env": {"HF_TOKEN": "s3cret"}}}',
        'roles={"decode": {"engine_args": {"hf_token": "s3cret"}}}',
    ],
)
def test_a_secret_is_not_echoed(recipe: Recipe, setting: str) -> None:
    with pytest.raises(RecipeError) as caught:
        overrides.apply(recipe, [setting])
    assert "s3cret" not in caught.value.what + str(caught.value.next) + str(caught.value.quote)
