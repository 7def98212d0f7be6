"""What architectures need in their config.json beside sizes: for twins, and for weights that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

MTP_FIELD: Final = "num_nextn_predict_layers"


@dataclass(frozen=True)
class Family:
    """What differs between architectures. `defaults` completes a config that states only sizes; `few` is made less."""

    model_type: str
    experts: str | None = None
    widths: tuple[str, ...] = ("intermediate_size",)
    kept: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
    few: tuple[tuple[str, int], ...] = ()
    mla: bool = False
    mtp: str | None = None
    """The engine's class for its MTP modules (the field `num_nextn_predict_layers`), where there is one."""
    whole_heads: bool = False
    """Its config is refused when the heads do not divide the hidden size, even where `head_dim` is stated."""


# Sources: transformers 5.19, configuration_*.py of each model type; the defaults of MiniMax-M2 from MiniMaxM2Config
# and from what vLLM 0.32 reads of the config (models/minimax_m2.py: rotary_dim, scoring_func, use_routing_bias).
FAMILIES: Final = {
    # The ranks of MLA and the widths of its heads stay: its kernels are made for them.
    "DeepseekV3ForCausalLM": Family(
        "deepseek_v3",
        experts="n_routed_experts",
        widths=("intermediate_size", "moe_intermediate_size"),
        kept=(
            "n_group",
            "topk_group",
            "n_shared_experts",
            "routed_scaling_factor",
            "norm_topk_prob",
            "scoring_func",
            "topk_method",
            "kv_lora_rank",
            "qk_nope_head_dim",
            "qk_rope_head_dim",
            "v_head_dim",
            "moe_layer_freq",
            MTP_FIELD,
        ),
        defaults=(
            ("n_group", 8),
            ("topk_group", 4),
            ("routed_scaling_factor", 2.5),
            ("norm_topk_prob", True),
            ("scoring_func", "sigmoid"),
            ("topk_method", "noaux_tc"),
            ("moe_layer_freq", 1),
            ("kv_lora_rank", 512),
            ("qk_nope_head_dim", 128),
            ("qk_rope_head_dim", 64),
            ("v_head_dim", 128),
        ),
        few=(("first_k_dense_replace", 1), ("q_lora_rank", 128)),
        mla=True,
        mtp="DeepSeekMTPModel",
    ),
    "LlamaForCausalLM": Family("llama", kept=("attention_bias", "mlp_bias"), whole_heads=True),
    "MiniMaxM2ForCausalLM": Family(
        "minimax_m2",
        experts="num_local_experts",
        kept=("rotary_dim", "scoring_func", "use_routing_bias", "use_qk_norm"),
        defaults=(
            ("rotary_dim", 64),
            ("scoring_func", "sigmoid"),
            ("use_routing_bias", True),
            ("rope_theta", 5_000_000),
            ("rms_norm_eps", 1e-6),
        ),
    ),
    "MixtralForCausalLM": Family("mixtral", experts="num_local_experts", kept=("sliding_window",)),
    "Qwen3ForCausalLM": Family("qwen3", kept=("attention_bias",)),
    "Qwen3MoeForCausalLM": Family(
        "qwen3_moe",
        experts="num_experts",
        widths=("intermediate_size", "moe_intermediate_size"),
        kept=("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers", "attention_bias"),
    ),
}
