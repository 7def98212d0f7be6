"""What the fullest rank of a layout keeps in memory: weights, cache, and what the engine needs beside them."""

import math
from typing import Any, Final, NamedTuple

from overspan.catalog import flags
from overspan.planner import graphs
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import RankMemory
from overspan.schema.recipe import Recipe

GB: Final = 1e9
# CUDA context, NCCL buffers and the engine's own tensors, before any model. Estimate from vLLM's profile logs of one
# H200 (0.6 to 1.5 GB); a wrong estimate moves the answer by about a percent of a GPU.
CONTEXT_BYTES: Final = 1.5e9
_WIDE_GRAPHS: Final = ("GptOssForCausalLM",)
# vLLM's default of max_num_batched_tokens for the API server (vllm.config.SchedulerConfig; 8192 on large GPUs).
BATCHED_TOKENS: Final = 8192


# As vLLM reads sizes: small letters are decimal, large ones binary (vllm/engine/arg_utils.py, human_readable_int).
_UNITS: Final = {letter: 1000**power for power, letter in enumerate("kmgt", 1)} | {
    letter: 1024**power for power, letter in enumerate("KMGT", 1)
}


TERMS: Final = ("weights", "kv", "activations", "graphs", "context", "budget")


class MemoryFit(NamedTuple):
    """Bytes of the fullest rank by term, and what it may use.

    `kv` is what the sequences need. `pool` is kv_cache_memory_bytes, where that is set: the cache has just that size,
    and the budget is all of the memory (vllm/config/cache.py: it ignores gpu_memory_utilization).
    """

    weights: float
    kv: float
    activations: float
    graphs: float
    context: float
    budget: float
    memory: float
    utilisation: float
    pool: float | None = None

    @property
    def cache(self) -> float:
        """What the cache takes: its pool, or what the sequences need."""
        return self.kv if self.pool is None else self.pool

    @property
    def beside(self) -> float:
        """All terms but the cache."""
        return self.weights + self.activations + self.graphs + self.context

    @property
    def needed(self) -> float:
        """All terms together."""
        return self.beside + self.cache

    @property
    def room(self) -> float:
        """What the sequences may take."""
        return self.budget - self.beside if self.pool is None else self.pool

    @property
    def fits(self) -> bool:
        """Whether the rank fits what it may use, and the sequences fit the cache."""
        return self.needed <= self.budget and self.kv <= self.room

    def terms(self) -> dict[str, int]:
        """Bytes by term, as a plan keeps them."""
        counted = self._replace(kv=self.cache)._asdict()
        return {name: round(counted[name]) for name in TERMS}

    def arithmetic(self) -> str:
        """The sum, for a person: `67.2 weights + 0.5 KV ... = 71.6 GB > 109.2 GB (128.5 x 0.85)`."""
        named = [("weights", self.weights), ("KV", self.cache), ("activations", self.activations)]
        named += [("graphs", self.graphs), ("context", self.context)]
        parts = " + ".join(f"{value / GB:.1f} {name}" for name, value in named if value)
        sign = "<=" if self.needed <= self.budget else ">"
        share = f"{self.memory / GB:.1f} x {self.utilisation:g}"
        how = share if self.pool is None else "kv_cache_memory_bytes replaces gpu_memory_utilization"
        limit = f"{self.budget / GB:.1f} GB ({how})"
        return f"{parts} = {self.needed / GB:.1f} GB {sign} {limit}"


def stage_layers(model: ModelSpec, layout: Layout) -> int:
    """Layers of the fullest pipeline stage."""
    return math.ceil(model.layers / layout.pp)


def expert_ranks(layout: Layout) -> int:
    """Ranks that share the experts of a layer: vLLM spreads or splits them over TP x DP, with EP or without."""
    return layout.tp * layout.dp


def weight_bytes(model: ModelSpec, layout: Layout) -> dict[str, float]:
    """Weights of the fullest rank by module, in bytes."""
    share = stage_layers(model, layout) / model.layers
    attention = float(model.bytes_of("attention"))
    if model.attention.kind == "gqa":
        attention *= _attention_share(model, layout.tp)
    else:
        attention /= layout.tp
    split = {
        "attention": attention * share,
        "mlp": model.bytes_of("mlp", "shared_experts", "other") / layout.tp * share,
        "experts": model.bytes_of("experts") / expert_ranks(layout) * share,
        "replicated": model.bytes_of("router", "norm") * share,
    }
    ends = [model.bytes_of("embedding") / layout.tp, model.bytes_of("lm_head") / layout.tp]
    split["embedding"] = sum(ends) if layout.pp == 1 else max(*ends, ends[0] if model.tied_embeddings else 0)
    split["vision"] = model.bytes_of("vision") / layout.tp
    return {name: value for name, value in split.items() if value}


def _attention_share(model: ModelSpec, tp: int) -> float:
    """The share of the attention's weights that one rank holds: KV heads are copied when there are fewer than ranks."""
    heads, kv_heads = model.attention.heads, model.attention.kv_heads
    return (2 * heads / tp + 2 * max(1.0, kv_heads / tp)) / (2 * heads + 2 * kv_heads)


def kv_share(model: ModelSpec, layout: Layout) -> float:
    """The share of one sequence's cache that the fullest rank holds; it is whole within one DP group."""
    stage = stage_layers(model, layout) / model.layers
    if model.attention.kind == "mla":
        return stage
    return stage * max(1.0, model.attention.kv_heads / layout.tp) / model.attention.kv_heads


def kv_value_bytes(model: ModelSpec, args: dict[str, Any]) -> float:
    """Bytes of one cached value, from `kv_cache_dtype` or the checkpoint."""
    given = str(args.get("kv_cache_dtype", "auto"))
    if given == "auto":
        return (
            1.0
            if model.quantisation and model.quantisation.kv_format == "fp8"
            else 4.0
            if model.dtype == "fp32"
            else 2.0
        )
    return 1.0 if "8" in given else 0.5 if "4" in given else 2.0


def tokens_of(value: Any, default: int) -> int:
    """A size such as 4096, `4k`, `2G` or `auto` as a number, of tokens or of bytes."""
    if isinstance(value, int) and value > 0:
        return value
    text = str(value)
    if text.isdigit() and int(text) > 0:
        return int(text)
    unit = _UNITS.get(text[-1:])
    return int(float(text[:-1]) * unit) if unit and text[:-1].replace(".", "", 1).isdigit() else default


def _utilisation(given: Any) -> float:
    """The share of memory that the engine may use."""
    return float(given if isinstance(given, (int, float)) else flags.VLLM.shipped["gpu_memory_utilization"]["default"])


def cpu_dtype(model: ModelSpec, recipe: Recipe, inventory: Inventory, fit: MemoryFit) -> str | None:
    """`float32` where a CPU would only imitate bfloat16 and twice the weights and cache fit; else the checkpoint's own.

    Without such instructions a batch of 16 in bfloat16 gave 12 tokens/s and in float32 54 (SmolLM2-135M, vLLM 0.32, an
    AMD EPYC with AVX2, 2026-11-22). A quantised checkpoint and a recipe that names its dtype stay as they are.
    """
    imitates = inventory.device == "cpu" and any(host.cpu_bf16 is False for host in inventory.hosts)
    if not imitates or model.dtype != "bf16" or model.quantisation or "dtype" in recipe.engine_args:
        return None
    return "float32" if fit.needed + fit.weights + fit.kv <= fit.budget else None


def _drafting_bytes(model: ModelSpec, layout: Layout, args: dict[str, Any]) -> float:
    """MTP layers on a rank, where they draft; split as the layers that they copy."""
    asked = args.get("speculative_config")
    drafts = isinstance(asked, dict) and "mtp" in str(asked.get("method", ""))
    held = model.bytes_of("mtp") or model.mtp_bytes
    return held / expert_ranks(layout) if drafts else 0.0


def fit(
    model: ModelSpec,
    layout: Layout,
    recipe: Recipe,
    memory_bytes: float,
    *,
    tokens: int | None = None,
    sequences: int = 1,
    reserve_bytes: float = 0.0,
    family: str | None = None,
) -> MemoryFit:
    """What the fullest rank needs, and what it may use.

    Args:
        model: its sizes.
        layout: degrees of parallelism.
        recipe: for the utilisation, the context, the type of the cache, eager or graphs.
        memory_bytes: of one GPU, or of a CPU rank.
        tokens: cached for each sequence; the whole context where not given, as vLLM itself asks for at start.
        sequences: at a time over all DP groups.
        reserve_bytes: what the system keeps of unified memory.
        family: of the hardware, as the catalogue has it; None where it is not known.
    """
    args = recipe.engine_args
    utilisation = _utilisation(args.get("gpu_memory_utilization"))
    context = tokens_of(args.get("max_model_len"), model.max_context or 4096)
    if args.get("max_model_len") in ("auto", -1):
        context = min(context, 4096)
    kept = model.kv_bytes(tokens or context, kv_value_bytes(model, args)) * kv_share(model, layout)
    pool = tokens_of(args.get("kv_cache_memory_bytes"), 0) or None
    share = memory_bytes if pool else memory_bytes * utilisation
    batched = tokens_of(args.get("max_num_batched_tokens"), min(BATCHED_TOKENS, max(2048, context)))
    wide = family == "blackwell" or model.architecture in _WIDE_GRAPHS
    sizes = [] if family == "cpu" else graphs.captured(args, memory_bytes, batched, wide=wide)
    width = model.hidden + 2 * max(model.intermediate, model.expert_intermediate * model.experts_per_token) / layout.tp
    return MemoryFit(
        weights=sum(weight_bytes(model, layout).values()) + _drafting_bytes(model, layout, args),
        kv=kept * math.ceil(sequences / layout.dp),
        activations=2 * batched * width * 2,
        graphs=graphs.LAYER_BYTES * stage_layers(model, layout) * len(sizes),
        context=CONTEXT_BYTES,
        budget=min(share, memory_bytes - reserve_bytes),
        memory=memory_bytes,
        utilisation=utilisation,
        pool=pool,
    )


def as_planned(model: ModelSpec, terms: dict[str, int]) -> RankMemory:
    """The terms of the fullest rank for plan.json: what nothing here can count is null."""
    state = None if model.attention.linear_layers else 0
    return RankMemory(**terms, state=state, assumed=["activations", "graphs", "context"])
