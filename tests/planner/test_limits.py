"""What vLLM refuses at its start, or has no room for, is known before; what would run is offered as one line."""

import contextlib
import io
import json
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from overspan.catalog import hardware, models, recipes
from overspan.catalog.shapes import positions
from overspan.cli.main import main
from overspan.planner import graphs, memory
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec

H200 = """
name: one-h200
hosts:
  - {name: localhost, memory_bytes: 135000000000, cores: 16,
     gpus: [{index: 0, kind: h200, name: NVIDIA H200, memory_bytes: 150754820096}]}
"""
MINIMAX = "lukealonso/MiniMax-M2.5-NVFP4"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}


@pytest.fixture
def on(tmp_path: Path) -> str:
    """An inventory of one H200; its file's name needs quotes in a shell."""
    file = tmp_path / "one h200.yaml"
    file.write_text(H200)
    return str(file)


@pytest.fixture
def llama(tmp_path: Path) -> str:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return str(folder)


class Result(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def plan(*words: str) -> Result:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
    return Result(int(ended.value.code or 0), *texts)


def settings(*given: str) -> list[str]:
    return [word for each in given for word in ("--set", each)]


def offered(result: Result) -> list[str]:
    """The words of the line to paste that a refusal ends with, without the program and `up`."""
    assert result.exit_code == 2, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("next: overspan up "))
    return shlex.split(line.removeprefix("next: "))[2:]


def test_a_longer_context_than_the_model_has_is_refused(llama: str, on: str) -> None:
    result = plan(llama, "--on", on, *settings("max_model_len=200000"))
    assert "max_model_len=200000 is more than the 131072 positions" in result.output
    assert offered(result) == [llama, "--on", on, "--set", "max_model_len=131072"]
    assert plan(*offered(result)).exit_code == 0


@pytest.mark.parametrize(
    "given",
    [
        "env.VLLM_ALLOW_LONG_MAX_MODEL_LEN=1",
        'hf_overrides={"max_position_embeddings": 262144}',
        'hf_overrides={"rope_scaling": {"rope_type": "linear", "factor": 2.0}}',
        'hf_overrides={"rope_parameters": {"rope_type": "yarn", "factor": 2}}',
    ],
)
def test_what_vllm_takes_is_not_refused(llama: str, on: str, given: str) -> None:
    result = plan(llama, "--on", on, *settings("max_model_len=200000", given))
    assert result.exit_code == 0, result.output
    assert ("may give wrong text, or NaN" in result.output) == given.startswith("env.")


def test_an_override_that_leads_to_no_length_refuses_nothing(llama: str, on: str) -> None:
    assert plan(llama, "--on", on, *settings("max_model_len=200000", "hf_overrides=made.by.Code")).exit_code == 0


def test_the_variable_is_inherited_by_an_engine_of_this_machine(
    llama: str, on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "true")
    assert plan(llama, "--on", on, *settings("max_model_len=200000")).exit_code == 0


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"type": "longrope", "factor": 32.0}}, 131072),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8}}, 131072),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 8192,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            65536,
        ),
        (
            {
                "model_type": "gemma3_text",
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            },
            131072,
        ),
        ({"max_seq_len": 2048}, 2048),
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, 131072),
        ({}, None),
    ],
)
def test_positions_are_counted_as_vllm_counts_them(config: dict[str, object], tokens: int | None) -> None:
    assert positions(config) == tokens


def test_a_cache_larger_than_the_gpu_is_refused_with_the_sum(llama: str, on: str) -> None:
    result = plan(llama, "--on", on, *settings("kv_cache_memory_bytes=150000000000"))
    assert "150.0 KV" in result.output
    assert "> 150.8 GB (kv_cache_memory_bytes replaces gpu_memory_utilization)" in result.output
    assert plan(*offered(result)).exit_code == 0


def test_a_cache_of_its_own_size_does_not_ask_for_the_share(llama: str, on: str) -> None:
    asked = settings("kv_cache_memory_bytes=20G", "gpu_memory_utilization=0.1")
    result = plan(llama, "--on", on, *asked, "--json")
    assert result.exit_code == 0, result.output
    held = json.loads(result.stdout)["memory"]
    assert held["kv"] == 20 * 2**30 and held["budget"] == 150754820096


def test_a_cache_that_holds_no_sequence_is_refused(llama: str, on: str) -> None:
    result = plan(llama, "--on", on, *settings("kv_cache_memory_bytes=1G"))
    assert "kv_cache_memory_bytes is 1.1 GB, and one sequence of the whole context needs 17.2 GB" in result.output
    assert plan(*offered(result)).exit_code == 0


def test_requests_of_a_cache_of_its_own_size_wait(llama: str, on: str) -> None:
    """The prediction counts the cache that is there: 2 GB hold one request of 16,000 tokens, the default holds many."""
    load = ["--isl", "8000", "--osl", "200", "--concurrency", "4"]
    small = plan(llama, "--on", on, *load, *settings("kv_cache_memory_bytes=2G", "max_model_len=16000"))
    assert "the cache holds 2 of 4 requests" in small.output or "the cache holds 1 of 4 requests" in small.output
    assert "requests; the others wait" not in plan(llama, "--on", on, *load).output


def test_what_makes_minimax_run_on_one_h200_is_one_line(on: str) -> None:
    result = plan(MINIMAX, "--on", on)
    words = offered(result)
    assert words[:3] == [MINIMAX, "--on", on] and f"'{on}'" in result.output
    assert "gpu_memory_utilization=0.97" in words and "max_num_seqs=8" in words
    length = next(int(word.partition("=")[2]) for word in words if word.startswith("max_model_len="))
    assert 4096 <= length < 36_600  # vLLM's own log, with 8 sequences: a cache of 36.6k tokens
    assert plan(*words).exit_code == 0


@pytest.mark.parametrize("asked", [["--concurrency", "16"], ["--explain"], ["--isl", "2000"], []])
def test_the_line_keeps_what_the_user_gave(on: str, asked: list[str]) -> None:
    words = offered(plan(MINIMAX, "--on", on, *asked, "--set", "env.NOTE=a b; c", "--weights", "synthetic"))
    given = [word for word in asked if word != "--explain"]
    assert [word for word in words if word in given] == given
    assert "env.NOTE=a b; c" in words and words[words.index("--weights") + 1] == "synthetic"
    assert plan(*words).exit_code == 0
    assert ("max_num_seqs=16" in words) == ("16" in asked)


def test_a_length_that_was_stated_is_kept_where_it_can_be(on: str) -> None:
    words = offered(plan(MINIMAX, "--on", on, *settings("max_model_len=65536")))
    assert "max_model_len=65536" in words and "kv_cache_dtype=fp8" in words
    assert plan(*words).exit_code == 0


def test_a_share_that_is_too_small_is_raised_and_no_more(llama: str, on: str) -> None:
    words = offered(plan(llama, "--on", on, *settings("gpu-memory-utilization=0.2")))
    assert words == [llama, "--on", on, "--set", "gpu_memory_utilization=0.92"]


def test_nothing_is_offered_where_nothing_helps(on: str) -> None:
    result = plan("deepseek-ai/DeepSeek-V3", "--on", on, "--set", "layout=tp1")
    assert result.exit_code == 2 and "next: overspan up" not in result.output


def fitted(model: ModelSpec, **args: object) -> memory.MemoryFit:
    recipe = recipes.for_model(model.name).with_(engine_args=args)
    return memory.fit(model, Layout(), recipe, 150.75e9, family="hopper")


@pytest.mark.parametrize(
    ("args", "gib"),
    [
        ({"max_num_seqs": 8}, 0.09),  # vLLM's log on an H200: 0.09 GiB of MiniMax with 8 sequences, 0.98 at most
        ({}, 0.98),
        ({"cudagraph_capture_sizes": [1, 2, 4, 8, 16]}, 0.09),
        ({"max_cudagraph_capture_size": 16}, 0.09),
        ({"compilation_config": {"cudagraph_capture_sizes": [1, 2, 4, 8, 16]}}, 0.09),
        ({"enforce_eager": True}, 0.0),
        ({"compilation_config": {"cudagraph_mode": "NONE"}}, 0.0),
    ],
)
def test_graphs_are_counted_by_their_captured_sizes(args: dict[str, object], gib: float) -> None:
    assert fitted(models.find("minimax-m2.5-nvfp4"), **args).graphs / 2**30 == pytest.approx(gib, rel=0.2)


def test_the_sizes_that_vllm_captures() -> None:
    h200 = 150e9
    assert graphs.captured({"max_num_seqs": 8}, h200, 8192) == [1, 2, 4, 8, 16]
    assert len(graphs.captured({}, h200, 8192)) == 51
    assert len(graphs.captured({}, h200, 8192, wide=True)) == 83  # gpt-oss: vLLM's own comment, and its log
    assert max(graphs.captured({}, 24e9, 8192)) == 512
    assert graphs.captured({"max_num_seqs": 3}, h200, 8192) == [1, 2, 3, 4]
    draft = {"num_speculative_tokens": 2}
    assert graphs.captured({"max_num_seqs": 4, "speculative_config": draft}, h200, 8192) == [
        1,
        2,
        3,
        4,
        6,
        8,
        12,
        16,
        24,
    ]


GPUS = "[{index: 0, kind: %s, memory_bytes: 128000000000%s}]"


@pytest.mark.parametrize(
    ("kind", "more", "share", "warned"),
    [
        ("gb10", ", unified_memory: true", "0.95", True),
        ("gb10", "", "0.97", True),
        ("gb10", ", unified_memory: true", "0.9", False),
        ("gb200", ", unified_memory: true", "0.97", False),
        ("gh200", "", "0.97", False),
        ("h200", "", "0.97", False),
        ("newchip", ", unified_memory: true", "0.96", True),
    ],
)
def test_much_of_unified_memory_is_warned_of(
    tmp_path: Path, llama: str, kind: str, more: str, share: str, warned: bool
) -> None:
    file = tmp_path / "host.yaml"
    file.write_text(f"hosts: [{{name: localhost, memory_bytes: 128000000000, gpus: {GPUS % (kind, more)}}}]")
    result = plan(llama, "--on", str(file), *settings(f"gpu_memory_utilization={share}", "max_model_len=8192"))
    assert result.exit_code == 0, result.output
    assert ("unified memory (" in result.output) == warned


def test_a_plan_tells_parameters_and_memory(on: str, llama: str) -> None:
    told = json.loads(plan(llama, "--on", on, "--json").stdout)
    assert told["parameters"] == {"total": 8_030_261_248, "active": pytest.approx(6.98e9, rel=0.01)}
    held = told["memory"]
    assert held["weights"] == told["memory_per_rank"]["weights"] and held["state"] == 0
    assert held["assumed"] == ["activations", "graphs", "context"]
    text = plan(llama, "--on", on).output
    assert "parameters: 8.03 B" in text and "memory of the fullest rank: 16.1 weights + 17.2 kv" in text


def test_what_is_not_known_is_null(on: str, tmp_path: Path) -> None:
    folder = tmp_path / "hybrid"
    folder.mkdir()
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 8
    (folder / "config.json").write_text(json.dumps({**LLAMA, "layer_types": kinds}))
    assert json.loads(plan(str(folder), "--on", on, "--json").stdout)["memory"]["state"] is None
    told = json.loads(plan("nobody/knows-this", "--on", on, "--json").stdout)
    assert told["memory"] is None and told["parameters"] is None


def test_gpus_that_are_stated_are_planned_for() -> None:
    hosts = [{"name": "a", "memory_bytes": 10**11, "gpus": [{"index": 0, "kind": "gb10", "memory_bytes": 10**11}]}]
    assert Inventory.model_validate({"hosts": hosts}).device == "cuda"
    assert Inventory.model_validate({"hosts": [{**hosts[0], "gpus": []}]}).device == "cpu"
    again = Inventory.model_validate_json(Inventory.model_validate({"hosts": hosts, "device": "cpu"}).model_dump_json())
    assert again.device == "cpu"


def test_a_cpu_that_is_stated_beside_gpus_is_told(tmp_path: Path) -> None:
    file = tmp_path / "host.yaml"
    gpus = GPUS % ("h200", "")
    file.write_text(f"{{device: cpu, hosts: [{{name: localhost, memory_bytes: 128000000000, gpus: {gpus}}}]}}")
    assert "states 1 GPUs and device: cpu" in plan("smollm2-135m", "--on", str(file)).output


def test_the_family_of_a_cpu_captures_no_graphs() -> None:
    assert hardware.find("cpu").family == "cpu"
    told = json.loads(plan("smollm2-135m", "--json").stdout)
    assert told["inventory"]["device"] != "cpu" or told["memory"]["graphs"] == 0
