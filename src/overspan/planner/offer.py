"""What would make a refused plan run: the fewest settings, each tried by the planner before it is offered."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

from overspan.catalog import flags, models, overrides
from overspan.planner import limits, rank, refuse
from overspan.planner.make import make_plan, states_layout
from overspan.planner.memory import tokens_of
from overspan.planner.placement import unplaced
from overspan.schema.errors import InputError, ModelUnavailable
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import EngineChoice
from overspan.schema.recipe import Recipe
from overspan.schema.slo import Slo
from overspan.schema.workload import Demand

SPARE_BYTES: Final = 1e9
"""What an offered length leaves free: activations, graphs and context are estimates. Plans of five models missed
vLLM's own cache by 0.3 to 1.6 GB (one H200, vLLM 0.26, 2026-11-30). A choice."""

HIGHEST: Final = {True: 0.9, False: 0.97}
"""Of gpu_memory_utilization, with unified memory and with memory of its own. 0.97 ran on an H200 (2026-11-30); where
the system lives in the memory see `limits.UNIFIED_SHARE`."""

LEFT_BYTES: Final = 1e9
"""What is left for the driver's own part of a small GPU. A choice: 0.3 to 0.6 GB are usual."""

SEQUENCES: Final = 8
USEFUL_TOKENS: Final = 8192
"""The shortest context that is offered alone. A choice: below it, memory is found first."""

STEP_TOKENS: Final = 1024
STEP_BYTES: Final = 2**28

_LENGTH, _SHARE, _FEW = "max_model_len", "gpu_memory_utilization", "max_num_seqs"
_FORMAT, _POOL = "kv_cache_dtype", "kv_cache_memory_bytes"


class _Question(NamedTuple):
    """A question that `make_plan` refused, and the model of its recipe."""

    recipe: Recipe
    inventory: Inventory
    engine: EngineChoice
    demand: Demand | None
    slo: Slo | None
    model: ModelSpec


def settings(
    recipe: Recipe, inventory: Inventory, engine: EngineChoice, demand: Demand | None, slo: Slo | None
) -> list[str]:
    """`NAME=VALUE` of the fewest settings with which `make_plan` plans what it refused; empty where none does.

    Args:
        recipe, inventory, engine, demand, slo: as it refused them.
    """
    try:
        model = models.lookup(recipe.model)
    except ModelUnavailable:
        return []
    if model is None or recipe.topology is not None or refuse.recipe_refusals(recipe, inventory):
        return []
    asked = _Question(recipe, inventory, engine, demand, slo, model)
    every = list(rank.layouts(model, sum(refuse.slots(host, inventory) for host in inventory.hosts)))
    stated = states_layout(recipe)
    for layouts in [[recipe.layout], every] if stated else [every]:
        first: list[tuple[str, ...]] = [()] if stated and layouts is every else []
        for names in first + _combinations(recipe.engine_args):
            if found := _search(asked, layouts, names):
                return found
    return []


def _combinations(args: dict[str, Any]) -> list[tuple[str, ...]]:
    """Sets of settings to change, what harms least first. A length that somebody stated is kept where it can be."""
    if _POOL in args:
        return [(_POOL,), (_LENGTH,), (_POOL, _LENGTH), (_POOL, _FEW, _LENGTH)]
    wider = [(_SHARE, _FEW, _LENGTH), (_SHARE, _FEW, _FORMAT, _LENGTH)]
    if _LENGTH in args:
        return [(_SHARE,), (_SHARE, _FEW), (_LENGTH,), (_SHARE, _FEW, _FORMAT), *wider]
    return [(_SHARE,), (_LENGTH,), (_SHARE, _FEW), *wider]


def _search(asked: _Question, layouts: list[Layout], names: tuple[str, ...]) -> list[str] | None:
    """Values of these settings with which one of the layouts is planned; None where there are none."""
    changes: dict[str, Any] = {}
    for name in names:
        value = _VALUES[name](asked, layouts, changes)
        if value is None:
            return None
        changes[name] = value
    layout = _runs(asked, layouts, changes)
    if layout is None:
        return None
    found = [f"{name}={value}" for name, value in changes.items()]
    if states_layout(asked.recipe) and layout != asked.recipe.layout:
        found.insert(0, f"layout={layout.label}")
    try:
        make_plan(overrides.apply(asked.recipe, found), *asked[1:5])
    except InputError:
        return None
    return found


def _with(asked: _Question, changes: dict[str, Any]) -> Recipe:
    return asked.recipe.with_(engine_args={**asked.recipe.engine_args, **changes})


def _runs(asked: _Question, layouts: list[Layout], changes: dict[str, Any], spare: float = 0.0) -> Layout | None:
    """The first of the layouts that nothing speaks against, with some bytes to spare."""
    recipe = _with(asked, changes)
    for layout in layouts:
        if refuse.refusals(asked.model, layout, asked.inventory, recipe, of_recipe=()):
            continue
        fits = [room.fit(asked.model, layout, recipe) for room in refuse.rank_memory(layout, asked.inventory)]
        if all(fit.pool or fit.needed + spare <= fit.budget for fit in fits):
            return layout
    return None


def _share(asked: _Question, layouts: list[Layout], changes: dict[str, Any]) -> float | None:
    """The usual share of memory where less was asked for and it is enough, else the highest."""
    usual = float(flags.VLLM.shipped[_SHARE]["default"])
    now = asked.recipe.engine_args.get(_SHARE, usual)
    gpus = [gpu for host in asked.inventory.hosts for gpu in host.gpus]
    if not isinstance(now, int | float):
        return None
    if now < usual and (not gpus or _runs(asked, layouts, {_SHARE: usual})):
        return usual
    tops = [min(HIGHEST[limits.is_unified(gpu)], 1 - LEFT_BYTES / gpu.size_bytes) for gpu in gpus]
    top = math.floor(min(tops, default=0.0) * 100) / 100
    return top if top > now else None


def _few(asked: _Question, layouts: list[Layout], changes: dict[str, Any]) -> int | None:
    """As few sequences as there are users, eight at least."""
    wanted = max(SEQUENCES, asked.demand.concurrency if asked.demand else 0)
    now = asked.recipe.engine_args.get(_FEW)
    return wanted if not isinstance(now, int) or now > wanted else now


def _format(asked: _Question, layouts: list[Layout], changes: dict[str, Any]) -> str | None:
    """A cache in FP8, where the GPUs compute in it and no format was asked for."""
    kinds = [limits.known(gpu.kind) for host in asked.inventory.hosts for gpu in host.gpus]
    able = kinds and all(kind is not None and "fp8" in kind.rates for kind in kinds)
    return "fp8" if able and asked.recipe.engine_args.get(_FORMAT, "auto") == "auto" else None


def _length(asked: _Question, layouts: list[Layout], changes: dict[str, Any]) -> int | None:
    """The longest context that fits with bytes to spare, in whole steps; None where that is too short for use."""
    stated = tokens_of(asked.recipe.engine_args.get(_LENGTH), 0)
    most = limits.most_tokens(asked.model, asked.recipe)
    highest = min(filter(None, (stated, most)), default=0)
    least = STEP_TOKENS if changes else USEFUL_TOKENS
    if asked.demand is not None:
        least = max(least, math.ceil(asked.demand.isl + asked.demand.osl))
    if highest and _runs(asked, layouts, {**changes, _LENGTH: highest}, SPARE_BYTES):
        return highest
    low, high = 0, highest // STEP_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        fits = _runs(asked, layouts, {**changes, _LENGTH: middle * STEP_TOKENS}, SPARE_BYTES)
        low, high = (middle, high) if fits else (low, middle - 1)
    return low * STEP_TOKENS if low * STEP_TOKENS >= min(least, highest) > 0 else None


def _pool(asked: _Question, layouts: list[Layout], changes: dict[str, Any]) -> int | None:
    """The cache that was asked for, made larger to hold one sequence, or smaller to fit."""
    found = []
    for layout in layouts:
        if unplaced(layout, asked.inventory):
            continue
        recipe = _with(asked, changes)
        fits = [room.fit(asked.model, layout, recipe) for room in refuse.rank_memory(layout, asked.inventory)]
        most = min((fit.budget - fit.beside - SPARE_BYTES for fit in fits), default=0.0) // STEP_BYTES * STEP_BYTES
        wanted = max((max(fit.cache, math.ceil(fit.kv / STEP_BYTES) * STEP_BYTES) for fit in fits), default=0.0)
        found.append(int(min(most, wanted)))
    best = max(found, default=0)
    return best if best > 0 else None


_VALUES: Final = {_SHARE: _share, _FEW: _few, _FORMAT: _format, _LENGTH: _length, _POOL: _pool}
