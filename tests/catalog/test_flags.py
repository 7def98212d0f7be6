"""Engine arguments are refused here, before vLLM would, and written the way it takes them."""

from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import flags, inventories, overrides, recipes
from overspan.planner import refuse
from overspan.schema.errors import RecipeError


def test_dump_is_the_real_parser() -> None:
    known = flags.VLLM.known
    assert len(known) > 300
    assert known["gpu_memory_utilization"]["options"][0] == "--gpu-memory-utilization"
    assert known["enforce_eager"]["kind"] == "boolean"


def test_misspelt_name_tells_the_right_one() -> None:
    assert flags.VLLM.check({"gpu_memory_utilisation": 0.8}) == [
        "unknown engine argument 'gpu_memory_utilisation': did you mean gpu_memory_utilization?"
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("gpu_memory_utilization", 9.5, "must be 0.1 to 1 (given: 9.5)"),
        ("gpu_memory_utilization", 0.05, "must be 0.1 to 1"),
        ("gpu_memory_utilization", "high", "takes a number"),
        ("max_num_seqs", 0, "must be 1 or more"),
        ("max_num_seqs", True, "takes a whole number"),
        ("max_model_len", "4 k", "takes a whole number, one such as 4k, or auto"),
        ("max_model_len", 0, "must be 1 or more"),
        ("enforce_eager", "yes", "takes true or false"),
        ("dtype", "bfloat", "did you mean"),
        ("moe_backend", "marlim", "did you mean marlin"),
        ("compilation_config", "not json", "takes keys and values (JSON)"),
        ("cudagraph_capture_sizes", [1, "two"], "a list, each item a whole number"),
    ],
)
def test_wrong_value_says_what_is_allowed(name: str, value: object, said: str) -> None:
    (problem,) = flags.VLLM.check({name: value})
    assert problem.startswith(f"engine argument '{name}' ")
    assert said in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_model_len", "4k"),
        ("max_model_len", "auto"),
        ("max_model_len", -1),
        ("moe_backend", "MARLIN"),
        ("served_model_name", ["a", "b"]),
        ("hf_overrides", {"num_hidden_layers": 2}),
        ("gpu_memory_utilization", 1),
        ("kv_cache_dtype", "fp8"),
    ],
)
def test_what_vllm_takes_is_taken(name: str, value: object) -> None:
    assert flags.VLLM.check({name: value}) == []


def test_flag_newer_than_the_engine() -> None:
    assert flags.VLLM.check({"nnodes": 2}, "0.10.2") == [
        "engine argument 'nnodes' needs vLLM 0.11.1 or newer; this one is 0.10.2"
    ]
    assert flags.VLLM.check({"nnodes": 2}, "0.11.1") == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tensor_parallel_size", 2, "set layout.tp"),
        ("node_rank", 1, "chosen for each rank at launch"),
        ("api_key", "abc123", "would show a secret in argv"),
    ],
)
def test_recipe_has_one_home_for_each_value(name: str, value: object, said: str) -> None:
    (problem,) = flags.VLLM.check_recipe_args({name: value})
    assert said in problem
    assert "abc123" not in problem


def test_argv() -> None:
    args = {
        "max_model_len": 4096,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "headless": False,
        "seed": None,
        "served_model_name": ["a", "b"],
        "middleware": ["x", "y"],
        "speculative_config": {"num_speculative_tokens": 3, "method": "ngram"},
        "chat_template": "--not-a-flag",
    }
    assert flags.VLLM.to_argv(args) == [
        "--max-model-len", "4096",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--served-model-name", "a", "b",
        "--middleware", "x", "--middleware", "y",
        "--speculative-config", '{"method":"ngram","num_speculative_tokens":3}',
        "--chat-template=--not-a-flag",
    ]  # fmt: skip


def test_argv_refuses_an_unknown_name() -> None:
    with pytest.raises(RecipeError, match="did you mean max_num_seqs"):
        flags.VLLM.to_argv({"max_num_seq": 4})


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parser of another version told: it lacks --nnodes and has a flag of its own."""
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path))
    own = {name: flag for name, flag in flags.VLLM.known.items() if name != "nnodes"}
    own["warp_factor"] = {"options": ["--warp-factor"], "kind": "integer", "minimum": 1}
    flags.VLLM.keep({"engine": "vllm", "version": "0.99.1", "flags": own})


@pytest.mark.usefixtures("other")
def test_an_engine_whose_parser_was_asked_is_checked_against_it() -> None:
    assert flags.VLLM.check({"warp_factor": 9}, "0.99.1") == []
    assert "must be 1 or more" in flags.VLLM.check({"warp_factor": 0}, "0.99.1")[0]
    (problem,) = flags.VLLM.check({"nnodes": 2}, "0.99.1")
    assert "none of vLLM 0.99.1" in problem
    (problem,) = flags.VLLM.check({"warp_factor": 9}, flags.LATEST)
    assert f"none of vLLM {flags.LATEST}" in problem
    assert flags.VLLM.check({"warp_factor": 9, "nnodes": 2}) == []  # a recipe may be for any of them


@pytest.mark.usefixtures("other")
def test_a_recipe_can_use_it_and_an_image_that_lacks_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nmodel: a/b\nimage: vllm/vllm-openai:v0.99.1\nengine_args: {warp_factor: 9}\n")
    recipe = recipes.find(str(file))
    assert overrides.apply(recipe, ["warp_factor=8"]).engine_args == {"warp_factor": 8}
    pair = inventories.find("two-sparks")
    assert not [told for told in refuse.refusals(None, recipe.layout, pair, recipe) if "warp" in told]
    older = overrides.apply(recipe, [f"image=vllm/vllm-openai:v{flags.LATEST}"])
    (told,) = [told for told in refuse.refusals(None, recipe.layout, pair, older) if "warp" in told]
    assert f"holds vLLM {flags.LATEST}" in told and "its own parser does not know it" in told


@pytest.mark.parametrize("dump", [{}, {"version": "nightly", "flags": {}}, {"version": "1.2", "flags": {"a": {}}}])
def test_what_is_no_dump_is_not_kept(dump: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path))
    with pytest.raises((ValueError, KeyError)):
        flags.VLLM.keep(dump)
    assert not list(tmp_path.rglob("*.json"))
