"""A prediction in one sentence: what it gives of what is possible, where the time goes, and what to try next."""

from __future__ import annotations

from overspan.engines import registry
from overspan.planner.features import Setting
from overspan.schema.prediction import Prediction
from overspan.schema.recipe import Recipe

_SHOWN = 3
_LITTLE = 0.03  # a term below this share of the time is left out of the sentence


def explain(prediction: Prediction, recipe: Recipe, setting: Setting | None = None) -> str:
    """`17 of 51 tok/s: 29 ms weights, 25 ms host, 7 ms collectives; next, try CUDA graphs on native vLLM`."""
    total = prediction.tpot_ms
    largest = sorted(prediction.terms.items(), key=lambda item: -item[1])[:_SHOWN]
    parts = [f"{_ms(value)} {name}" for name, value in largest if value > _LITTLE * total]
    ceiling = 1e3 / prediction.ceiling_tpot_ms
    sentence = f"{_rate(prediction.interactivity)} of {_rate(ceiling)} tok/s a user: {', '.join(parts)}"
    return f"{sentence}; next, {next_step(prediction, recipe, setting)}"


def next_step(prediction: Prediction, recipe: Recipe, setting: Setting | None = None) -> str:
    """The change, or the experiment, that the largest term asks for."""
    if prediction.basis == "extrapolated":
        return "measure it (overspan bench): nothing of the kind was measured here yet"
    eager = bool(recipe.engine_args.get("enforce_eager"))
    share = {name: value / prediction.tpot_ms for name, value in prediction.terms.items()}
    if eager and share.get("host", 0.0) > 0.2:
        engine = registry.find(recipe.engine).before_graphs
        return f"try CUDA graphs{engine}: --set enforce_eager=false would save up to {_ms(prediction.terms['host'])}"
    if prediction.bound == "weights" and setting is not None and setting.backend == "cutlass_fp4":
        return "try Marlin: --set env.VLLM_NVFP4_GEMM_BACKEND=marlin"
    steps = {
        "weights": "fewer bytes for a token: a smaller weight format, more GPUs, or speculative decoding",
        "kv": "a smaller cache: --set kv_cache_dtype=fp8, or more DP groups",
        "collectives": "fewer collectives: PP between hosts, or experts spread; NCCL_DEBUG=INFO tells more",
        "layers": "speculative decoding or a newer engine: more GPUs do not shorten this cost, more users share it",
        "prefill": "prefill on GPUs of its own (xPyD), or shorter prompts by prefix caching",
        "host": "fewer sequences a process: more DP groups",
        "arithmetic": "more GPUs, or a format with faster arithmetic",
    }
    return steps[prediction.bound]


def tell_apart(prediction: Prediction) -> str | None:
    """The experiment that tells two explanations of the same time apart, where two terms could be mistaken."""
    host, wire = prediction.terms.get("host", 0.0), prediction.terms.get("collectives", 0.0)
    if min(host, wire) > 0.05 * prediction.tpot_ms:
        return (
            f"host ({_ms(host)}) and collectives ({_ms(wire)}) cannot be separated by their times: "
            "one run with NCCL_DEBUG=INFO separates them, or one in pp, whose layers have no collectives"
        )
    return None


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
