"""Parameters counted from config.json alone, against the sizes that the models' own cards state."""

from typing import Any

import pytest

from overspan.catalog import accounting, models

# Keys as in each config.json on Hugging Face; parameters in billions as the model's card says.
CARDS: dict[str, tuple[float, float, dict[str, Any]]] = {
    "llama-3.1-8b": (8.03, 0.01, {
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    }),
    "qwen3-30b-a3b": (30.5, 0.01, {
        "model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "vocab_size": 151936, "tie_word_embeddings": False,
    }),
    "mixtral-8x7b": (46.7, 0.01, {
        "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
        "vocab_size": 32000, "tie_word_embeddings": False,
    }),
    "deepseek-v3": (671, 0.01, {
        "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
        "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
        "moe_layer_freq": 1, "num_nextn_predict_layers": 1, "vocab_size": 129280, "tie_word_embeddings": False,
    }),
    "gpt-oss-120b": (116.8, 0.01, {
        "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 128,
        "num_experts_per_tok": 4, "vocab_size": 201088, "tie_word_embeddings": False, "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 18,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]},
    }),
    "glm-4.5": (355, 0.02, {
        "model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "moe_intermediate_size": 1536,
        "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1, "vocab_size": 151552, "tie_word_embeddings": False, "use_qk_norm": True,
    }),
    "gemma-2-9b": (9.24, 0.01, {
        "model_type": "gemma2", "hidden_size": 3584, "num_hidden_layers": 42, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 14336, "vocab_size": 256000,
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CARDS)
def test_counted_as_the_card_says(name: str) -> None:
    billions, within, config = CARDS[name]
    spec = accounting.count(name, config)
    assert spec.parameters / 1e9 == pytest.approx(billions, rel=within)
    assert not spec.warnings


def test_mla_caches_its_latent_once() -> None:
    spec = accounting.count("deepseek-v3", CARDS["deepseek-v3"][2])
    assert spec.kv_bytes(1) == 61 * (512 + 64) * 2
    assert spec.attention.kind == "mla"


def test_sliding_layers_keep_their_window() -> None:
    spec = accounting.count("gpt-oss-120b", CARDS["gpt-oss-120b"][2])
    assert spec.kv_bytes(10_000) == 2 * 8 * 64 * 2 * 18 * (10_000 + 128)
    # 60.8 GiB on disk (model card); all experts are MXFP4.
    assert spec.weight_bytes / 2**30 == pytest.approx(60.8, rel=0.01)
    assert (spec.format_of("experts"), spec.format_of("attention")) == ("mxfp4", "bf16")


@pytest.mark.parametrize(("model", "billions"), [("minimax-m2.5-bf16", 11.06), ("deepseek-v3", 11.6)])
def test_layers_that_draft(model: str, billions: float) -> None:
    """3 modules of MiniMax-M2 are 11.06 B (docs/sources.md); DeepSeek-V3's 14 B hold embedding and head again."""
    spec = models.find(model)
    assert spec.mtp_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    shared = 2 * spec.vocab * spec.hidden
    if model == "deepseek-v3":
        assert (spec.parameters + spec.mtp_parameters + shared) / 1e9 == pytest.approx(685, rel=0.01)


@pytest.mark.parametrize(
    ("model", "gb"),
    [("deepseek-v3", 673.0), ("qwen3-30b-a3b", 61.1), ("qwen3-32b-fp8", 34.3), ("qwen3-14b-awq", 9.98)],
)
def test_size_on_disk(model: str, gb: float) -> None:
    """Sizes of the files on Hugging Face: DeepSeek-V3's 688.6 GB less its MTP layer, the others as they stand."""
    assert models.find(model).weight_bytes / 1e9 == pytest.approx(gb, rel=0.01)
