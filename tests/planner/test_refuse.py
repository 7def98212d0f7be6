"""What cannot run is refused with its arithmetic; what the seeds ran is not."""

import pytest

from overspan.catalog import inventories, models, overrides, recipes
from overspan.planner import memory
from overspan.planner.refuse import refusals
from overspan.schema.layout import parse_layout

SPARKS = inventories.find("two-sparks")
MINIMAX = "minimax-m2.5-nvfp4"


def reasons(recipe: str, *settings: str, model: str | None = None, inventory: str = "two-sparks") -> list[str]:
    chosen = overrides.apply(recipes.find(recipe), settings)
    return refusals(models.find(model or recipe), chosen.layout, inventories.find(inventory), chosen)


@pytest.mark.parametrize("variant", [None, "cutlass", "cuda-graphs", "pp2", "ngram"])
def test_what_seed_000_ran_is_accepted(variant: str | None) -> None:
    assert reasons(MINIMAX, *([f"variant={variant}"] if variant else [])) == []


def test_what_seed_003_ran_is_accepted() -> None:
    assert reasons("llama-3.3-70b") == []


@pytest.mark.parametrize(
    ("settings", "model", "said"),
    [
        (["layout=tp5"], MINIMAX, "TP5 does not divide 48 attention heads (48 / 5 = 9.60)"),
        (["layout=tp3"], MINIMAX, "TP3 does not divide 8 KV heads (8 / 3 = 2.67)"),
        (["layout=tp12"], MINIMAX, "8 KV heads cannot be copied evenly to TP12 (12 / 8 = 1.50)"),
        (["layout=tep24"], MINIMAX, "EP24 does not divide 256 experts (256 / 24 = 10.67)"),
        (
            ["layout=tp8"],
            "minimax-m2.5",
            "fp8_block blocks of 128 do not divide the width of an expert on 8 ranks "
            "(1536 / 8 = 192; 192 / 128 = 1.50): spread the experts instead (ep)",
        ),
        (["layout=dp8"], "minimax-m2.5", "fp8_block blocks of 128 do not divide the width of an expert on 8 ranks"),
        (["layout=pp100"], MINIMAX, "PP100 has more stages than the model has layers (62)"),
        (["layout=tp4"], MINIMAX, "tp4 needs 4 GPUs, one a rank; two-sparks has 1 on spark1 + 1 on spark2 = 2"),
        (["layout=tep2"], "llama-3.3-70b", "tep2 spreads experts, and llama-3.3-70b has none"),
        (
            ["layout=tp1"],
            MINIMAX,
            "134.4 weights + 1.0 KV + 0.5 activations + 1.5 context = 137.4 GB > 109.2 GB (128.5 x 0.85)",
        ),
        (["image=repo:${TAG}"], MINIMAX, "'image' holds '${TAG}', which nothing fills in"),
        (["env.X=<your key>"], MINIMAX, "'env.X' holds '<your key>'"),
        (["MODEL={model}"], MINIMAX, "'model' holds '{model}'"),
        (["env.Y=$HOME/x"], MINIMAX, "'env.Y' holds '$HOME'"),
        (["image=vllm/vllm-openai:v0.10.2"], MINIMAX, "several hosts without Ray need --nnodes, vLLM 0.11.1 or newer"),
        (["image=vllm/vllm-openai:v0.10.2", "engine_version=0.12.0"], MINIMAX, "the recipe needs 0.12.0 or newer"),
    ],
)
def test_refused(settings: list[str], model: str, said: str) -> None:
    found = reasons(MINIMAX, *settings, model=model)
    assert any(said in reason for reason in found), found


def test_fp8_blocks_are_whole_when_experts_are_spread() -> None:
    found = reasons(MINIMAX, "layout=tep8", model="minimax-m2.5")
    assert found == ["tep8 needs 8 GPUs, one a rank; two-sparks has 1 on spark1 + 1 on spark2 = 2"]


def test_ray_needs_no_native_flag() -> None:
    assert reasons(MINIMAX, "image=vllm/vllm-openai:v0.10.2", "engine=vllm-ray") == []


def test_json_and_tokens_are_no_placeholders() -> None:
    assert reasons(MINIMAX, 'speculative_config={"method": "ngram"}', "reasoning_parser=x<think>y") == []


def test_long_context_tells_what_would_fit() -> None:
    (reason,) = reasons("llama-3.3-70b", "gpu_memory_utilization=0.65", "max_model_len=131072")
    fits = int(reason.split("max_model_len=")[1].split(" ")[0])
    assert reasons("llama-3.3-70b", "gpu_memory_utilization=0.65", f"max_model_len={fits}") == []


def test_without_sizes_the_rest_is_still_checked() -> None:
    recipe = overrides.apply(recipes.find("minimax-m2.5-nvfp4"), ["layout=tp4"])
    assert len(refusals(None, recipe.layout, SPARKS, recipe)) == 1


def test_odd_heads_on_a_laptop() -> None:
    assert reasons("smollm2-135m", inventory="laptop") == []
    assert any("9 attention heads" in reason for reason in reasons("smollm2-135m", "tp=2", inventory="laptop"))


@pytest.mark.parametrize("label", ["tp2", "tep2", "pp2", "dep2", "tp4", "pp2tp2", "tp2dp2ep"])
def test_ranks_hold_the_whole_model(label: str) -> None:
    """All ranks together hold at least the model; the fullest no more than its share and what is copied."""
    spec = models.find("minimax-m2.5-nvfp4")
    layout = parse_layout(label)
    rank = sum(memory.weight_bytes(spec, layout).values())
    assert rank * layout.world_size >= spec.weight_bytes * 0.999
    copied = spec.bytes_of("attention", "router", "norm", "embedding", "lm_head")
    assert rank <= spec.weight_bytes / layout.world_size + copied
