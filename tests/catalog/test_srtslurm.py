"""Recipes of srt-slurm become ours, or are refused with the reason."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from overspan.catalog import imported, recipes, srtslurm
from overspan.schema.errors import InputError, RecipeError
from overspan.schema.yamlio import dump

FILE = Path(__file__).with_name("srtslurm") / "m3-1p2d.yaml"


def changed(**fields: Any) -> dict[str, Any]:
    return {**yaml.safe_load(FILE.read_text()), **fields}


def test_a_disaggregated_recipe_whole() -> None:
    found = imported.from_file(FILE)
    recipe = found.recipe
    assert (recipe.name, recipe.topology, recipe.engine) == ("m3-1p2d", "1P2D DEP4->TEP8", "dynamo")
    assert (recipe.model, recipe.revision, recipe.image) == (
        "MiniMaxAI/MiniMax-M3", "abc123", "vllm/vllm-openai:nightly",
    )  # fmt: skip
    assert recipe.engine_args == {"block_size": 128, "enable_prefix_caching": False}
    assert recipe.env == {"VLLM_ENGINE_READY_TIMEOUT_S": "3600"}
    prefill, decode = recipe.roles["prefill"], recipe.roles["decode"]
    assert (prefill.env, decode.env) == ({"UCX_TLS": "tcp"}, {"UCX_TLS": "cuda_ipc"})
    transfer = prefill.engine_args.pop("kv_transfer_config")
    assert prefill.engine_args == {"max_num_batched_tokens": 16384}
    assert decode.engine_args["max_num_seqs"] == 512
    assert isinstance(transfer, dict)
    assert transfer["kv_load_failure_policy"] == "fail"


def test_what_is_not_carried_over_is_told() -> None:
    said = imported.from_file(FILE).warnings
    assert [line.split(":")[0] for line in said] == [
        "dynamo", "benchmark", "slurm", "setup_script", "resources", "prefill",
    ]  # fmt: skip
    assert said[4] == "resources: prefill reserves 2 nodes of 4 GPUs for 1 x 4 ranks"
    assert "kv_load_failure_policy recompute becomes fail" in said[5]


def test_an_aggregated_recipe() -> None:
    backend = {"type": "vllm", "vllm_config": {"aggregated": {"tensor-parallel-size": 4}}}
    recipe = srtslurm.from_data(changed(backend=backend, resources={}), "agg.yaml").recipe
    assert (recipe.layout.label, recipe.topology, recipe.roles) == ("tp4", None, {})
    assert recipe.engine == "vllm"  # one worker answers by itself


def test_what_public_recipes_hold_beside_vllms_own_arguments(tmp_path: Path) -> None:
    """After srt-slurm-recipes' MiniMax-M3: Dynamo's arguments, a hub's name as path, no image, connectors in one."""
    inner = {"connectors": [{"kv_connector": "NixlConnector", "kv_load_failure_policy": "recompute"}]}
    transfer = {"kv_connector": "MultiConnector", "kv_load_failure_policy": "fail", "kv_connector_extra_config": inner}
    worker = {"tensor-parallel-size": 2, "dyn-tool-call-parser": "m3", "headless": True, "max-num-seqs": 8}
    both = {"prefill": {**worker, "kv-transfer-config": json.dumps(transfer)}, "decode": worker}
    model = {"path": "hf:MiniMaxAI/MiniMax-M3", "container": ""}
    found = srtslurm.from_data(changed(backend={"vllm_config": both}, model=model, identity={}), "x.yaml")
    file = tmp_path / "m3.yaml"
    file.write_text(dump(found.recipe))
    recipe = recipes.find(str(file))  # what was imported can be read
    assert (recipe.model, recipe.image, recipe.engine_args) == ("MiniMaxAI/MiniMax-M3", None, {"max_num_seqs": 8})
    kept: Any = recipe.roles["prefill"].engine_args["kv_transfer_config"]
    assert kept["kv_connector_extra_config"]["connectors"][0]["kv_load_failure_policy"] == "fail"
    assert "prefill.dyn_tool_call_parser: not carried over: an argument of Dynamo's, not of vLLM's" in found.warnings
    assert any(line.startswith("decode.headless: not carried over") for line in found.warnings)


def test_a_wrong_value_is_refused_rather_than_left_out() -> None:
    backend = {"vllm_config": {"aggregated": {"gpu-memory-utilization": 5}}}
    with pytest.raises(RecipeError, match=r"aggregated: .*gpu_memory_utilization"):
        srtslurm.from_data(changed(backend=backend), "x.yaml")


def test_what_stands_inside_of_a_section_and_is_lost_is_told() -> None:
    backend: dict[str, Any] = {"type": "vllm", "connector": None, "mooncake_kv_store": {"env": {}}}
    backend["vllm_config"] = {"aggregated": {"tensor-parallel-size": 4}}
    frontend = {"type": "dynamo", "enable_multiple_frontends": False, "args": {"router-mode": "kv"}}
    data = changed(backend=backend, resources={"agg_workers": 2}, frontend=frontend)
    said = [line.partition(": ")[0] for line in srtslurm.from_data(data, "agg.yaml").warnings]
    assert said[-4:] == ["frontend.args", "backend.mooncake_kv_store", "frontend", "resources"]


def second_schema() -> dict[str, Any]:
    """The same recipe as FILE, as schema 2 writes it."""
    data = changed(schema=2, engine={"type": "vllm", "kv_events_config": True})
    backend, resources = data.pop("backend"), data["resources"]
    data["roles"] = {
        role: {
            "nodes": resources.pop(f"{role}_nodes"),
            "workers": resources.pop(f"{role}_workers"),
            "env": backend[f"{role}_environment"],
            "args": backend["vllm_config"][role],
        }
        for role in ("prefill", "decode")
    }
    return data


def test_the_second_schema_gives_the_same_recipe() -> None:
    first, second = imported.from_file(FILE), srtslurm.from_data(second_schema(), str(FILE))
    assert second.recipe.with_(warnings=[]) == first.recipe.with_(warnings=[])
    assert second.warnings == [
        "engine.kv_events_config: not carried over: Overspan has no such setting",
        *first.warnings,
    ]
    data = second_schema()
    data["roles"]["decode"] |= {"nodes": "colocate", "restart": "always", "workers": 1}
    assert "roles.decode.restart" in str(srtslurm.from_data(data, "x.yaml").warnings)


@pytest.mark.parametrize("engine", ["sglang", None, {"type": "trtllm"}, ["vllm"]])
def test_the_second_schema_of_another_engine_is_refused(engine: Any) -> None:
    with pytest.raises(RecipeError, match="only workers of vLLM can be imported"):
        srtslurm.from_data({**second_schema(), "engine": engine}, "x.yaml")


def everywhere(data: Any, odd: Any) -> Iterator[Any]:
    """The document again and again, each time with another of its values replaced."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield {**data, key: odd}
            yield from ({**data, key: inner} for inner in everywhere(value, odd))


@pytest.mark.parametrize("odd", ["x", "{", -1, 3.5, [], ["a"], {"a": {}}, None, True, "a\nb"])
@pytest.mark.parametrize("make", [changed, second_schema])
def test_whatever_stands_there_is_taken_or_refused(make: Callable[[], dict[str, Any]], odd: Any) -> None:
    for data in everywhere(make(), odd):
        with contextlib.suppress(InputError):
            srtslurm.from_data(data, "x.yaml")


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"type": "sglang", "sglang_config": {}}, "backend is sglang; only workers of vLLM"),
        ({"vllm_config": {"prefill": {}}}, "wanted prefill and decode, or aggregated"),
        ({"vllm_config": {"aggregated": {"kv-transfer-config": "{x"}}}, "kv-transfer-config is not JSON"),
        ({"vllm_config": {"aggregated": {}}, "aggregated_environment": {"HF_TOKEN": "x"}}, "HF_TOKEN is a secret"),
    ],
)
def test_refused_with_the_field(backend: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        srtslurm.from_data(changed(backend=backend), "x.yaml")
