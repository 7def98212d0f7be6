"""Recipes of srt-slurm become ours, or are refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from overspan.catalog import srtslurm
from overspan.schema.errors import RecipeError

FILE = Path(__file__).with_name("srtslurm") / "m3-1p2d.yaml"


def changed(**fields: Any) -> dict[str, Any]:
    return {**yaml.safe_load(FILE.read_text()), **fields}


def test_a_disaggregated_recipe_whole() -> None:
    found = srtslurm.from_file(FILE)
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
    said = srtslurm.from_file(FILE).warnings
    assert [line.split(":")[0] for line in said] == [
        "dynamo", "benchmark", "slurm", "setup_script", "resources", "prefill",
    ]  # fmt: skip
    assert said[4] == "resources: prefill reserves 2 nodes of 4 GPUs for 1 x 4 ranks"
    assert "kv_load_failure_policy recompute becomes fail" in said[5]


def test_an_aggregated_recipe() -> None:
    backend = {"type": "vllm", "vllm_config": {"aggregated": {"tensor-parallel-size": 4}}}
    recipe = srtslurm.from_data(changed(backend=backend, resources={}), "agg.yaml").recipe
    assert (recipe.layout.label, recipe.topology, recipe.roles) == ("tp4", None, {})


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"type": "sglang", "sglang_config": {}}, "backend is sglang; only workers of vLLM"),
        ({"vllm_config": {"prefill": {}}}, "wanted prefill and decode, or aggregated"),
        ({"vllm_config": {"aggregated": {"kv-transfer-config": "{x"}}}, "kv-transfer-config is no JSON"),
        ({"vllm_config": {"aggregated": {}}, "aggregated_environment": {"HF_TOKEN": "x"}}, "HF_TOKEN is a secret"),
    ],
)
def test_refused_with_the_field(backend: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        srtslurm.from_data(changed(backend=backend), "x.yaml")
