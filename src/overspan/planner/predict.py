"""TPOT and TTFT of a layout as sums of named terms, each with its interval. Pure and fast: no tables, no search."""

from __future__ import annotations

import math
from typing import Any, Final

from overspan.catalog import calibration, releases
from overspan.planner import features, memory
from overspan.planner.features import Case, Setting
from overspan.schema.errors import InputError
from overspan.schema.hardware import HardwareSpec
from overspan.schema.model import ModelSpec
from overspan.schema.prediction import Calibration, Interval, Prediction
from overspan.schema.recipe import Recipe

# Share of draft tokens that are accepted, one after another. Text decides it: measure yours.
ACCEPTANCE: Final = {
    "ngram": 0.1,  # Avarok's MiniMax-M2.5 guide: no gain on chat; text that repeats its prompt gives far more
    "mtp": 0.85,  # DeepSeek-V3 technical report, section 5.4.3: 85-90 % of second tokens
    "eagle": 0.7,  # arXiv 2406.16858 (EAGLE-2), table 1: 4 of about 6 drafted on chat
}
Z80: Final = 1.2816  # 80 % of a normal distribution lie within this many sigmas
_EXTRAPOLATED: Final = 2.5  # how much wider the scatter is where nothing was measured
_OTHER_MODEL: Final = 1.6
"""And on a model that no measurement was of: 11 % mean error on published rows of others against 7 % on GPU kinds left
out. Source: benchmarks/planner_held_out.py and planner_accuracy.py."""


def setting_of(recipe: Recipe, model: ModelSpec, hardware: HardwareSpec) -> Setting:
    """How a recipe runs the engine, as far as it changes the time."""
    args, env = recipe.engine_args, recipe.env
    tokens, layers, acceptance = _speculation(args.get("speculative_config"))
    asked = " ".join(str(value) for value in (args.get("moe_backend"), env.get("VLLM_NVFP4_GEMM_BACKEND"))).lower()
    return Setting(
        eager=bool(args.get("enforce_eager")) or hardware.family == "cpu",
        backend=backend_of(model, hardware, marlin="marlin" in asked),
        kv_value_bytes=memory.kv_value_bytes(model, args),
        batched_tokens=memory.tokens_of(args.get("max_num_batched_tokens"), memory.BATCHED_TOKENS),
        engine_version=releases.engine_version(recipe.image) or recipe.engine_version,
        draft_tokens=tokens,
        draft_layers=layers,
        acceptance=acceptance,
    )


def _speculation(config: object) -> tuple[int, int, float]:
    """Draft tokens, layers run for each of them, and the share that is accepted, by method."""
    if not isinstance(config, dict):
        return 0, 0, 0.0
    tokens, method = config.get("num_speculative_tokens"), str(config.get("method", ""))
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        return 0, 0, 0.0
    known = next((name for name in ACCEPTANCE if name in method), None)
    return tokens, 0 if "ngram" in method else 1, ACCEPTANCE[known] if known else 0.5


def backend_of(model: ModelSpec, hardware: HardwareSpec, *, marlin: bool = False) -> str:
    """The kernels that read the weights: the hardware's own, Marlin for weight-only formats, CUTLASS on SM120."""
    held = model.format_of("experts" if model.experts else "mlp")
    # What has no arithmetic of its own on these is expanded to BF16 by Marlin; Ampere lacks FP8 altogether.
    expanded = held in ("nvfp4", "mxfp4", "mxfp8") and hardware.family in ("hopper", "ampere", "ada")
    expanded = expanded or (held.startswith("fp8") and hardware.family == "ampere")
    if marlin or held.startswith("int4") or expanded:
        return "marlin"
    return "cutlass_fp4" if held == "nvfp4" and hardware.family == "blackwell-consumer" else "native"


def predict(case: Case, constants: Calibration | None = None, capacity: float = math.inf) -> Prediction:
    """What a layout gives under a demand.

    Args:
        case: model, layout, hardware, demand and setting.
        constants: of another calibration than the one that ships.
        capacity: requests whose cache fits one DP group.

    Raises:
        InputError: nothing here can say it: the model has layers whose cost is unknown.
    """
    _abstain(case)
    held = constants or calibration.of(case.hardware)
    demand, layout = case.demand, case.layout
    running = min(float(demand.concurrency), capacity * layout.dp)
    if running < 1:
        raise InputError(f"{layout.label}: the cache holds no request of {demand.isl + demand.osl:.0f} tokens")
    counted = features.decode(case, running)
    parts = {name: held.constants[name].value * amount for name, amount in counted.items()}
    tpot, waits = sum(parts.values()), _waits(case, held, parts, running)
    ttft, terms = sum(waits.values()), _by_term(parts, held)
    unknown = _unmeasured(case, held)
    known = not unknown
    widen = _EXTRAPOLATED if unknown else _OTHER_MODEL if _other_model(case, held) else 1.0
    return Prediction(
        layout=layout,
        demand=demand,
        gpus=layout.world_size,
        tpot_ms=tpot,
        ttft_ms=ttft,
        terms=terms,
        ttft_terms=waits,
        bound=max(terms, key=lambda name: terms[name]),
        ceiling_tpot_ms=ceiling_ms(case, running),
        interval=_interval(tpot, _spread(counted, held, held.scatter * widen, tpot)),
        ttft_interval=_interval(ttft, held.ttft_scatter * widen),
        running=int(running),
        basis="calibrated" if known else "extrapolated",
        notes=_notes(case, running, unknown or ([case.model.architecture] if _other_model(case, held) else [])),
    )


def _waits(case: Case, held: Calibration, parts: dict[str, float], running: float) -> dict[str, float]:
    """The terms of TTFT in ms, the queue behind a full cache included."""
    demand, tpot = case.demand, sum(parts.values())
    prefill = features.prefill_ms(case, {name: one.value for name, one in held.constants.items()})
    first = features.first_token(case, running, tpot, prefill)
    waits = {name: held.constants[name].value * amount for name, amount in first.items()}
    if running < demand.concurrency:
        # Little's law in a closed loop: who does not run waits for those who do.
        waits["queue"] = (demand.concurrency / running - 1) * (sum(waits.values()) + demand.osl * tpot)
    return waits


def _other_model(case: Case, held: Calibration) -> bool:
    """Whether the constants were fitted to other models, and not to runs on this very hardware either."""
    return (
        bool(held.architectures) and not case.hardware.constants and (case.model.architecture not in held.architectures)
    )


def _unmeasured(case: Case, held: Calibration) -> list[str]:
    """What of a case no measurement stands behind."""
    found: list[str] = [] if case.hardware.family in held.families else [case.hardware.family]
    attention = case.model.attention
    found += ["sparse attention"] if attention.sparse_layers else []
    found += ["MLA"] if attention.kind == "mla" else []
    found += ["sizes that were assumed"] if case.model.assumed else []
    return found


def _notes(case: Case, running: float, unknown: list[str]) -> list[str]:
    notes = [f"no measurement on {', '.join(unknown)} behind this: the interval is wider"] if unknown else []
    if running < case.demand.concurrency:
        notes.append(f"the cache holds {running:.0f} of {case.demand.concurrency} requests; the others wait")
    return notes


def capacity_of(case: Case, recipe: Recipe, memory_bytes: float, reserve_bytes: float = 0.0) -> float:
    """Requests whose cache fits one DP group beside the weights."""
    tokens = round(case.demand.isl + case.demand.osl / 2)
    beside: dict[str, Any] = {"reserve_bytes": reserve_bytes, "family": case.hardware.family}
    fit = memory.fit(case.model, case.layout, recipe, memory_bytes, tokens=tokens, **beside)
    limit = recipe.engine_args.get("max_num_seqs")
    fits = fit.room / fit.kv if fit.kv else math.inf
    return min(fits, float(limit)) if isinstance(limit, int) else fits


def ceiling_ms(case: Case, running: float) -> float:
    """A step's bytes, weights and cache, over the bandwidth of all ranks: no layout is faster."""
    _, whole = features.step_bytes(case, running)
    context = round(case.demand.isl + case.demand.osl / 2)
    cache = running * case.model.kv_bytes_read(context, case.setting.kv_value_bytes)
    # In a pipeline the stages work one after another on one token.
    at_a_time = case.layout.world_size / case.layout.pp
    return (whole + cache) / (case.hardware.bandwidth.bytes_per_s * at_a_time) * features.MS


def _abstain(case: Case) -> None:
    if case.model.attention.linear_layers:
        raise InputError(
            f"no prediction for {case.model.name}: {case.model.attention.linear_layers} of its layers have linear "
            "attention, whose cost was never measured here",
            next="measure it: overspan up, then overspan bench",
        )


def _by_term(parts: dict[str, float], held: Calibration) -> dict[str, float]:
    terms: dict[str, float] = {}
    for name, value in parts.items():
        term = held.constants[name].term
        terms[term] = terms.get(term, 0.0) + value
    return terms


def _spread(counted: dict[str, float], held: Calibration, scatter: float, tpot: float) -> float:
    """Relative standard error: of the constants after the shared scatter of kinds that were not fitted."""
    # Priors of the constants overlap with the scatter seen from kind to kind: take the larger, not both.
    own = math.sqrt(sum((held.constants[name].sigma * amount) ** 2 for name, amount in counted.items())) / tpot
    return max(own, scatter)


def _interval(value: float, relative: float) -> Interval:
    factor = math.exp(Z80 * relative)
    return Interval(low=value / factor, high=value * factor)
