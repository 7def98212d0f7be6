"""Drawn weights: a signal keeps its size behind every format, and models of any family answer."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overspan.provision.synthetic import write_config
from support.engine import engine_python

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parent / "engine_side" / "drawn.py"
SIZES = {
    "dtype": "bfloat16", "vocab_size": 2000, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 256, "max_position_embeddings": 4096,
    "tie_word_embeddings": False, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
# MXFP4 experts on a CPU need AMX (vllm ... experts/cpu_moe.py, CPUExpertsMxfp4): here they are BF16.
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "num_local_experts": 8, "num_experts_per_tok": 4,
    "sliding_window": 128, "attention_bias": True, "rope_scaling": YARN, "swiglu_limit": 7.0,
}  # fmt: skip
QWEN3_NEXT = {
    "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next", "moe_intermediate_size": 128,
    "shared_expert_intermediate_size": 128, "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": True,
    "full_attention_interval": 4, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "partial_rotary_factor": 0.25,
}  # fmt: skip
MLA = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "num_key_value_heads": 4,
    "q_lora_rank": 128, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "moe_intermediate_size": 128, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1,
}  # fmt: skip
MAMBA2 = {
    "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "num_heads": 8, "state_size": 64, "n_groups": 1,
    "conv_kernel": 4, "expand": 2, "chunk_size": 256, "layer_norm_epsilon": 1e-5, "intermediate_size": 512,
}  # fmt: skip
GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "sliding_window": 512,
    "query_pre_attn_scalar": 64, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
}  # fmt: skip


def run(site: Path, *words: str) -> Any:
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "OMP_NUM_THREADS": "2",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    command = [str(engine_python()), str(SCRIPT), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_signal_keeps_its_size_and_what_is_no_weight_stays_usable(site: Path) -> None:
    found = run(site, "matrices")
    assert {name: gain for name, gain in found["gain"].items() if not 0.7 < gain < 1.5} == {}
    assert [name for name, sound in found["others"].items() if not sound] == []


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(GPT_OSS, id="gpt-oss"),
        pytest.param(QWEN3_NEXT, id="qwen3-next", marks=pytest.mark.slow),
        pytest.param(MLA, id="mla", marks=pytest.mark.slow),
        pytest.param(MAMBA2, id="mamba2", marks=pytest.mark.slow),
        pytest.param(GEMMA3, id="gemma3", marks=pytest.mark.slow),
    ],
)
def test_a_model_of_any_family_answers_and_each_prompt_otherwise(
    family: dict[str, Any], site: Path, tmp_path: Path
) -> None:
    write_config({**SIZES, **family}, tmp_path / "m", ["time", "year", "people", "money", "day", "night", "end"])
    found = run(site, "model", str(tmp_path / "m"))
    assert found["finite"]
    answers = [tuple(answer) for answer in found["answers"]]
    assert {len(answer) for answer in answers} == {12}
    assert len(set(answers)) == len(answers)
