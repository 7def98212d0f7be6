"""Recipes in sparkrun's format become ours; what cannot is told, and what is unresolved is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from overspan.catalog import imported as tools
from overspan.catalog import recipes
from overspan.catalog.foreign import Imported
from overspan.cli.recipe import recipe as cli
from overspan.schema.errors import InputError, RecipeError

PAIR = """\
recipe_version: '2'
model: nvidia/Some-NVFP4
model_revision: abc123
runtime: vllm
container: vllm/vllm-openai:v0.32.0
min_nodes: 2
cluster_only: true
metadata: {description: "a model\\n  over two", maintainer: somebody}
defaults:
  host: 0.0.0.0
  port: 8888
  tensor_parallel: 2
  served_model_name: some
  gpu_memory_utilization: 0.83
  max_num_seqs: 8
  speculative_config: '{"method":"mtp","num_speculative_tokens":3}'
  never_used: 1
env:
  VLLM_NVFP4_GEMM_BACKEND: marlin
  CACHE: /cache/{served_model_name}
  NCCL_SOCKET_IFNAME: enp1s0f0np0
  HF_TOKEN: ${HF_TOKEN}
pre_exec: [pip install something]
executor_config: {shm_size: 32gb}
command: |
  VLLM_USE_V1=1 vllm serve {model} \\
    --served-model-name {served_model_name} \\
    --host {host} --port={port} \\
    -tp {tensor_parallel} \\
    --gpu-memory-utilization {gpu_memory_utilization} \\
    --max-num-seqs {max_num_seqs} \\
    --enable-expert-parallel --no-enable-prefix-caching \\
    --distributed-executor-backend mp \\
    --cudagraph-capture-sizes 1 2 4 \\
    --speculative-config '{speculative_config}' \\
    --compilation-config.cudagraph_mode FULL \\
    --flag-of-a-fork a b \\
    --trust-remote-code
"""


def imported(text: str, tmp_path: Path, name: str = "Some__Model-vllm.yaml") -> Imported:
    file = tmp_path / name
    file.write_text(text)
    return tools.from_file(file)


def changed(**changes: Any) -> str:
    data = {**yaml.safe_load(PAIR), **changes}
    return yaml.safe_dump({key: value for key, value in data.items() if value is not None})


def test_everything_has_its_home(tmp_path: Path) -> None:
    found = imported(PAIR, tmp_path).recipe
    assert (found.name, found.model, found.revision) == ("some__model-vllm", "nvidia/Some-NVFP4", "abc123")
    assert (found.image, found.engine, found.layout.label) == ("vllm/vllm-openai:v0.32.0", "vllm", "tep2")
    assert (found.host, found.port, found.served_model_name) == ("0.0.0.0", 8888, "some")
    assert found.description == "a model over two"
    assert found.engine_args == {
        "gpu_memory_utilization": 0.83,
        "max_num_seqs": 8,
        "enable_prefix_caching": False,
        "cudagraph_capture_sizes": [1, 2, 4],
        "speculative_config": {"method": "mtp", "num_speculative_tokens": 3},
        "compilation_config": {"cudagraph_mode": "FULL"},
        "trust_remote_code": True,
    }
    assert found.env == {"VLLM_USE_V1": "1", "VLLM_NVFP4_GEMM_BACKEND": "marlin", "CACHE": "/cache/some"}


def test_what_is_not_carried_over_is_told_and_kept_in_the_recipe(tmp_path: Path) -> None:
    found = imported(PAIR, tmp_path)
    subjects = sorted(warning.partition(": ")[0] for warning in found.warnings)
    assert subjects == [
        "--flag-of-a-fork a b",
        "defaults.never_used",
        "env.HF_TOKEN",
        "env.NCCL_SOCKET_IFNAME",
        "executor_config",
        "pre_exec",
    ]
    assert found.recipe.warnings == found.warnings


def test_without_a_command_the_defaults_are_the_arguments(tmp_path: Path) -> None:
    found = imported(changed(command=None), tmp_path)
    assert found.recipe.layout.label == "tp2"
    assert found.recipe.engine_args["speculative_config"] == {"method": "mtp", "num_speculative_tokens": 3}
    assert any(warning.startswith("defaults.never_used: vLLM") for warning in found.warnings)


@pytest.mark.parametrize("changes", [
    {"runtime": "vllm-ray"},
    {"command": "vllm serve {model} --distributed-executor-backend ray"},
])  # fmt: skip
def test_ray_stays_ray(tmp_path: Path, changes: dict[str, str]) -> None:
    assert imported(changed(**changes), tmp_path).recipe.engine == "vllm-ray"


def test_doubled_braces_are_braces(tmp_path: Path) -> None:
    text = changed(command='vllm serve {model} --hf-overrides \'{{"a": {{"b": {port}}}}}\'')
    assert imported(text, tmp_path).recipe.engine_args == {"hf_overrides": {"a": {"b": 8888}}}


def test_a_name_with_a_dash_is_filled_in_too(tmp_path: Path) -> None:
    text = changed(
        env={}, defaults={"hf-overrides": '{"a": 1}'}, command="vllm serve {model} --hf-overrides '{hf-overrides}'"
    )
    assert imported(text, tmp_path).recipe.engine_args == {"hf_overrides": {"a": 1}}


def test_other_commands_of_the_script_are_not_run_and_told(tmp_path: Path) -> None:
    text = changed(command="curl -o /tmp/p.py https://x && vllm serve {model} --dtype auto\necho done")
    found = imported(text, tmp_path)
    assert found.recipe.engine_args == {"dtype": "auto"}
    told = [warning for warning in found.warnings if warning.startswith("command: not run: ")]
    assert [warning.split()[3] for warning in told] == ["curl", "echo"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"command": "vllm serve {model} --max-model-len {max_model_len}"}, "unresolved: {max_model_len} has no value"),
        ({"command": "vllm serve {model} --dtype $DTYPE"}, "unresolved: $DTYPE"),
        ({"command": "vllm serve {model} --dtype $(cat x)"}, "unresolved: $"),
        ({"defaults": {"a": "{b}", "b": "{a}"}, "command": "vllm serve {model} --dtype {a}"}, "in a circle"),
        ({"env": {"A": "${HOME}/x"}}, "unresolved: ${HOME}"),
        ({"env": {"A": "{head_ip}"}}, "unresolved: {head_ip}"),
        ({"command": "vllm serve {model} --dtype 'auto"}, "No closing quotation"),
        ({"command": "python -m sglang.launch_server"}, "expected one `vllm serve`, found 0"),
        ({"command": "vllm serve {model} --gpu-memory-utilization 9.5"}, "must be 0.1 to 1 (given: 9.5)"),
        ({"command": "vllm serve {model} --max-num-seqs many"}, "takes a whole number"),
        ({"command": "vllm serve {model} -tp two"}, "tensor_parallel_size: expected a whole number"),
        ({"min_nodes": "two"}, "min_nodes: expected a whole number"),
        ({"runtime": "sglang"}, "runtime 'sglang' is not vLLM"),
        ({"recipe_version": "1"}, "only version 2"),
        ({"include": "base"}, "includes 'base'"),
        ({"model": None}, "'model' is required"),
        ({"defaults": [1]}, "'defaults': expected keys and values"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(RecipeError) as refused:
        imported(changed(**changes), tmp_path)
    assert why in refused.value.what


def test_a_hostile_value_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    command = "vllm serve {model} --dtype {m}"
    for hostile in (f"a'; touch {mark} #", f"$(touch {mark})", f"`touch {mark}`"):
        with pytest.raises(RecipeError):
            imported(changed(defaults={"m": hostile}, command=command, env=None), tmp_path)
    found = imported(changed(defaults={"m": f"auto && touch {mark}"}, command=command, env=None), tmp_path)
    assert found.recipe.engine_args == {"dtype": "auto"} and f"command: not run: touch {mark}" in found.warnings
    assert not mark.exists()


def test_the_command_writes_a_recipe_that_loads(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text(PAIR)
    out = tmp_path / "ours.yaml"
    done = CliRunner().invoke(cli, ["import", str(tmp_path / "pair.yaml"), "--out", str(out)])
    assert done.exit_code == 0 and done.stdout == ""
    assert recipes.find(str(out)) == tools.from_file(tmp_path / "pair.yaml").recipe
    assert "warning: pre_exec: not carried over" in done.stderr
    again = CliRunner().invoke(cli, ["import", str(tmp_path / "pair.yaml"), "--out", str(out)])
    assert isinstance(again.exception, InputError) and "exists already" in again.exception.what


def test_list_and_show() -> None:
    listed = json.loads(CliRunner().invoke(cli, ["list", "--json"]).stdout)
    assert [each["name"] for each in listed] == recipes.names()
    shown = CliRunner().invoke(cli, ["show", "minimax-m2.5-nvfp4"]).stdout
    assert yaml.safe_load(shown)["engine_args"]["gpu_memory_utilization"] == 0.85
