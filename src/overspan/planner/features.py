"""What one decode step and one prefill do, counted: each entry is what its constant of the calibration multiplies.

The prediction is linear in the constants, so a fit to a few measured points is a small linear problem.
Source of the counts: the model's shape and vLLM's own split (see memory.py); times at the data sheet's rates.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Final, NamedTuple

from packaging.version import Version

from overspan.catalog import calibration, formats
from overspan.planner import memory
from overspan.schema.hardware import LAUNCH_S, HardwareSpec, Interconnect
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.versions import version_of
from overspan.schema.workload import Demand

MS: Final = 1e3
US_IN_MS: Final = 1e-3
ACTIVATION_BYTES: Final = 2
_MANY: Final = 100  # prompts of a group in a step, from where they are counted as a normal distribution
# vLLM fuses the norm over all heads with its all-reduce from this version on (`fuse_minimax_qk_norm`).
_FUSED_NORM: Final = Version("0.18")


class Setting(NamedTuple):
    """How the engine runs, as far as it changes the time."""

    eager: bool = False
    backend: str = "native"
    kv_value_bytes: float = 2.0
    batched_tokens: float = memory.BATCHED_TOKENS
    engine_version: str | None = None
    draft_tokens: int = 0
    draft_layers: int = 0
    acceptance: float = 0.0

    @property
    def tokens_per_step(self) -> float:
        """Expected tokens of one step with speculative decoding: 1 + a + a^2 ... (arXiv 2211.17192, equation 1)."""
        return sum(self.acceptance**accepted for accepted in range(self.draft_tokens + 1))


class Case(NamedTuple):
    """One thing to predict. `gpus_per_host` tells which link a collective crosses."""

    model: ModelSpec
    layout: Layout
    hardware: HardwareSpec
    demand: Demand
    setting: Setting = Setting()
    gpus_per_host: int = 8

    @property
    def link(self) -> Interconnect:
        """The link that the collectives of one layer cross."""
        ranks = self.layout.tp if self.layout.dp == 1 else self.layout.tp * self.layout.dp
        return self.hardware.within if ranks <= self.gpus_per_host else self.hardware.between


def distinct_experts(experts: int, per_token: int, tokens: float) -> float:
    """Expected number of experts that some tokens reach when routing spreads evenly."""
    return experts * (1 - (1 - per_token / experts) ** tokens) if experts else 0.0


def fullest_share(distinct: float, experts: int, ranks: int) -> float:
    """How many times its even share of the reached experts the fullest rank holds, in expectation.

    Experts fall on ranks like draws without replacement; the maximum over ranks by Blom's approximation.
    """
    if ranks <= 1 or distinct <= 0:
        return 1.0
    mean = distinct / ranks
    spread = math.sqrt(mean * (1 - distinct / experts) * (1 - 1 / ranks))
    highest = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) * math.sqrt(ranks / (ranks - 1))
    return min(mean + spread * highest, experts / ranks, distinct) / mean


def step_bytes(case: Case, running: float) -> tuple[float, float]:
    """Bytes of weights that one token's way through the model reads: on the fullest rank, and over all ranks."""
    model, layout = case.model, case.layout
    full = layout.with_(pp=1)
    split = memory.weight_bytes(model, full)
    reached = distinct_experts(model.experts, model.experts_per_token, running)
    share = reached / model.experts if model.experts else 0.0
    fullest = fullest_share(reached, model.experts, layout.ep) if layout.expert_parallel else 1.0
    head = model.bytes_of("lm_head") or (model.bytes_of("embedding") if model.tied_embeddings else 0)
    dense = split.get("attention", 0.0) + split.get("mlp", 0.0) + split.get("replicated", 0.0) + head / layout.tp
    # A layer that drafts is read like one of the model's, once for each draft.
    drafted = 1 + case.setting.draft_tokens * case.setting.draft_layers / model.layers
    rank = (dense + split.get("experts", 0.0) * share * fullest) * drafted
    groups = layout.dp if not model.experts else 1
    whole = model.bytes_of("attention", "mlp", "shared_experts", "other", "router", "norm") + head
    return rank, (whole + model.bytes_of("experts") * share) * groups


def expert_flops_ms(case: Case, tokens: float) -> float:
    """Time of the experts' products of some tokens (over all DP groups) on one rank, at the data sheet's rates."""
    model = case.model
    if not model.experts:
        return 0.0
    share = model.experts_per_token / model.experts
    work = model.parameters_of("experts") * share * tokens / memory.expert_ranks(case.layout)
    return 2 * work / case.hardware.rate(formats.compute_format(model.format_of("experts"))) * MS


def dense_flops_ms(case: Case, tokens: float) -> float:
    """The same of everything that every token passes: attention's matrices, dense layers, shared experts."""
    model, layout = case.model, case.layout
    parts = (("attention", model.parameters_of("attention")), ("mlp", model.parameters_of("mlp", "shared_experts")))
    local = tokens / layout.dp / layout.tp
    rates = ((case.hardware.rate(formats.compute_format(model.format_of(name))), work) for name, work in parts)  # type: ignore[arg-type]
    return sum(2 * work * local / rate for rate, work in rates) * MS


def dense_excess_ms(case: Case, tokens: float) -> float:
    """What the dense products of a step take beyond the time in which their weights are read anyway.

    Products and reads of one kernel overlap: the smooth maximum of both, less the reads, which `weights` counts.
    """
    split = memory.weight_bytes(case.model, case.layout.with_(pp=1))
    read = (split.get("attention", 0.0) + split.get("mlp", 0.0)) / case.hardware.bandwidth.bytes_per_s * MS
    return math.hypot(read, dense_flops_ms(case, tokens)) - read


def attention_ms(case: Case, tokens: float, context: float) -> float:
    """Time of attention itself for some tokens that look at some context, in BF16."""
    held = case.model.attention
    reach = held.full_layers * context + held.sliding_layers * min(context, held.window_tokens or context)
    reach += held.sparse_layers * min(context, held.sparse_read_tokens or context)
    work = 4 * held.heads * held.head_dim / case.layout.tp * tokens / case.layout.dp * reach
    return work / case.hardware.rate("bf16") * MS


def in_lockstep(case: Case) -> bool:
    """Whether groups share experts, so that all step together and a step is as long as the fullest group's."""
    return case.layout.dp > 1 and case.model.experts > 0


def collectives(case: Case) -> float:
    """Collectives of a decode step: two a layer in TP, one more for a norm over all heads, two for DP with experts."""
    model, layout = case.model, case.layout
    within = model.layers * (3.0 if model.attention.qk_norm == "tensor" else 2.0) if layout.tp > 1 else 0.0
    return within + (2.0 * model.moe_layers if in_lockstep(case) else 0.0)


def fullest_group(case: Case, arrivals: float) -> float:
    """How many times its even share of a step's prompts the fullest group has, in expectation.

    Prompts come to each group by themselves (Poisson): a lone one is all on one group while the others wait for it.
    Users in step bring theirs to all groups at once.

    Args:
        case: what is predicted.
        arrivals: prompts that come in the time of one step, over all groups.
    """
    groups = case.layout.dp
    if not in_lockstep(case) or case.demand.in_step or arrivals <= 0:
        return 1.0
    mean = arrivals * max(1.0, case.demand.isl / case.setting.batched_tokens) / groups
    if mean > _MANY:  # near a normal distribution; its maximum over groups by Blom's approximation
        return 1 + NormalDist().inv_cdf((groups - 0.375) / (groups + 0.25)) / math.sqrt(mean)
    chance = math.exp(-mean)
    below, expected, number = 0.0, 0.0, 0
    while number < mean + 12 * math.sqrt(mean) + 12:
        below += chance
        expected += 1 - min(1.0, below) ** groups
        number += 1
        chance *= mean / number
    return max(1.0, expected / mean)


def _steps_between(case: Case) -> float:
    """How many times the latency of two a collective takes: over some hosts it goes in log2 of them (NCCL's trees)."""
    ranks = case.layout.tp if case.layout.tp > 1 else case.layout.dp
    return max(1.0, math.log2(ranks / case.gpus_per_host)) if ranks > case.gpus_per_host else 1.0


def wire_ms(case: Case, tokens: float) -> float:
    """Time of the bytes of all collectives for some tokens over all groups, at the link's bandwidth.

    In TP two all-reduces a layer of the group's own tokens; groups that share experts gather all tokens and scatter the
    sums of each layer of experts (vLLM's `allgather_reducescatter`).
    """
    layout, model = case.layout, case.model
    moved = 2 * model.layers * tokens / layout.dp * 2 * (layout.tp - 1) / layout.tp
    if in_lockstep(case):
        moved += 2 * model.moe_layers * tokens * (layout.dp - 1) / layout.dp
    return moved * model.hidden * ACTIVATION_BYTES / case.link.bytes_per_s * MS


def others(case: Case, running: float) -> float:
    """Requests whose prefill a decoding user feels: not its own. Groups that share experts wait for each other."""
    shared = case.model.experts or case.layout.dp == 1
    return max(0.0, running - (1.0 if shared else case.layout.dp))


def _prompt(case: Case, tokens: float, fullest: float) -> dict[str, float]:
    """What the prefill constants multiply for prompts: `tokens` over all groups, `fullest` as if all had as many."""
    return {
        "prefill_arithmetic": expert_flops_ms(case, tokens),
        "prefill_dense": dense_flops_ms(case, fullest),
        "prefill_attention": attention_ms(case, fullest, case.demand.isl / 2),
    }


def prefill_ms(case: Case, constants: Mapping[str, float]) -> float:
    """Time of one request's prefill on its group, all groups at the same work."""
    tokens = case.demand.isl * case.layout.dp
    counted = {**_prompt(case, tokens, tokens), "collective_bytes": wire_ms(case, tokens)}
    return sum(constants[name] * value for name, value in counted.items())


def decode(case: Case, running: float) -> dict[str, float]:
    """What each constant multiplies in the time of one token, with some requests running, in ms per unit.

    A pipeline is counted as one batch that passes all stages: users of a closed loop clump into one micro-batch (two
    H200 in pp2 took 16 and 35 ms for 8 and 32 users, near one batch of all, far from two halves; docs/sources.md).
    """
    model, layout, demand, hardware = case.model, case.layout, case.demand, case.hardware
    # A group that works at all works for one request at least.
    local, gain = max(1.0, running / layout.dp), case.setting.tokens_per_step
    checked = running * (1 + case.setting.draft_tokens)  # tokens that one step computes
    arrivals = others(case, running) * gain / demand.osl  # of other users, in one step's time
    if demand.in_step:
        # A burst's prompts pass once: the mean user waits for half of them before its first token (TTFT), half after.
        arrivals /= 2
    prompt = arrivals * demand.isl
    fullest = prompt * fullest_group(case, arrivals)  # as if all groups had as much
    # Prompts for which this group leaves its graph: any group's where all step together.
    stalls = arrivals if in_lockstep(case) and not demand.in_step else arrivals / layout.dp
    chunks = max(1.0, demand.isl / case.setting.batched_tokens)
    rank_bytes, _ = step_bytes(case, checked)
    context = round(demand.isl + demand.osl / 2)
    cache = local * model.kv_bytes_read(context, case.setting.kv_value_bytes)
    cache *= memory.kv_share(model, layout.with_(pp=1))
    slow = hardware.latency_factor
    layers = (model.layers + case.setting.draft_tokens * case.setting.draft_layers) * slow * US_IN_MS
    hops = (layout.pp - 1) * (hardware.between if case.gpus_per_host < layout.world_size else hardware.within).latency_s
    found = {
        f"weights_{case.setting.backend}": rank_bytes / hardware.bandwidth.bytes_per_s * MS,
        "kv": cache / hardware.bandwidth.bytes_per_s * MS,
        "arithmetic": expert_flops_ms(case, checked),
        "arithmetic_dense": dense_excess_ms(case, checked),
        "collective_latency": (collectives(case) * _steps_between(case) * case.link.latency_s + hops) * MS,
        "collective_bytes": wire_ms(case, checked + fullest),
        "layer": layers,
        "layer_fp8": layers if _scales_activations(case) else 0.0,
        "layer_mla": layers if model.attention.kind == "mla" else 0.0,
        "layer_shared": model.moe_layers * slow * US_IN_MS if model.shared_expert_intermediate else 0.0,
        "layer_sparse": _sparse_layers(case) * US_IN_MS,
        "layer_unfused_norm": layers if _unfused_norm(case) else 0.0,
        "layer_eager": layers / slow * _launches(case) if case.setting.eager else 0.0,
        "sequence": local * US_IN_MS,
        **_prompt(case, prompt, fullest),
    }
    if not case.setting.eager:
        found["prefill_launches"] = chunks * (1 - math.exp(-stalls)) * _launch_excess_ms(case, found)
    return {name: value / gain for name, value in found.items() if value}


def _launch_excess_ms(case: Case, counted: Mapping[str, float]) -> float:
    """What the host's launches add to a step that has a prompt in it: such a step leaves its graph.

    They run ahead of the GPU where it is the slower one: the smooth maximum of both times, less the GPU's, which takes
    what is counted of a step's decoding and one prompt (or chunk of one), at the priors of the constants.
    """
    known = calibration.priors().constants
    chunk = min(case.demand.isl, case.setting.batched_tokens)
    groups = chunk * case.layout.dp
    alone = in_lockstep(case) and not case.demand.in_step
    step = {name: value for name, value in counted.items() if not name.startswith(("prefill_", "sequence"))}
    passing = {**step, **_prompt(case, chunk if alone else groups, groups)}
    gpu = sum(known[name].value * value for name, value in passing.items())
    gpu += known["collective_bytes"].value * wire_ms(case, groups)
    launched = known["layer"].value + known["layer_eager"].value * _launches(case)
    host = case.model.layers * launched * US_IN_MS
    return math.hypot(host, gpu) - gpu


def _launches(case: Case) -> float:
    """How dear one launch is here, of what the constant was learned at; 1 where it was not measured."""
    launch = case.hardware.launch
    return launch.seconds / LAUNCH_S if launch else 1.0


def _scales_activations(case: Case) -> bool:
    """Whether activations are scaled to FP8 on the way: weight-only kernels leave them as they are."""
    if case.setting.backend == "marlin":
        return False
    model = case.model
    return model.format_of("experts" if model.experts else "mlp") in ("fp8", "fp8_block", "mxfp8")


def _sparse_layers(case: Case) -> int:
    """Layers whose sparse attention costs more than a dense layer's: seen on Blackwell, not on Hopper."""
    return case.model.attention.sparse_layers if case.hardware.family == "blackwell" else 0


def _unfused_norm(case: Case) -> bool:
    version = version_of(case.setting.engine_version)
    old = version is not None and version < _FUSED_NORM
    return old and case.model.attention.qk_norm == "tensor" and case.layout.tp > 1


def first_token(case: Case, running: float, tpot_ms: float, prefill_ms: float) -> dict[str, float]:
    """What each constant multiplies in TTFT, in ms per unit.

    Args:
        case: what is predicted.
        running: requests at a time.
        tpot_ms: predicted time of a step.
        prefill_ms: predicted time that one request's prefill adds to decoding.
    """
    demand = case.demand
    # Who comes to an idle engine waits for no step in flight.
    busy = others(case, running) / running
    ahead = _ahead(case, running / case.layout.dp)
    steps = ahead * demand.isl / case.setting.batched_tokens
    read = sum(memory.weight_bytes(case.model, case.layout).values()) / case.hardware.bandwidth.bytes_per_s * MS
    layers = case.model.layers * US_IN_MS
    return {
        "first_layer": layers,
        "first_steps": tpot_ms * busy,
        "first_prefill": prefill_ms * (1 + ahead),
        "burst_layer": layers * steps,
        "burst_weights": read * steps,
    }


def _ahead(case: Case, group: float) -> float:
    """Prompts of a group that pass before the mean one of it, in the mean over all rounds.

    All users start together: half of them stand before the mean one. Spread users do so once. Users in step do again,
    as far as one step takes their prompts: who is not in the first step ends a step later, comes a step later, and then
    waits for the step in flight and for its own. Where the prompts of a round need more steps than an answer has, they
    queue. An open loop has no start.
    """
    demand = case.demand
    if demand.rate_per_s is not None:
        return 0.0
    first, later = group / 2, 0.0
    if demand.in_step:
        first, a_step = max(0.0, group - 1) / 2, case.setting.batched_tokens / demand.isl
        later = max(min(first, a_step + max(1.0, a_step) - 1), group - 1 - a_step * demand.osl)
    return later if demand.window == "steady" else (first + (demand.rounds - 1) * later) / demand.rounds
