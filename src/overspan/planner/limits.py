"""Limits of vLLM that arithmetic knows before a start: positions of a model, and shares of unified memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from overspan.catalog import flags, hardware, models, shapes
from overspan.planner import memory
from overspan.planner.placement import hosts_of
from overspan.schema.errors import OverspanError, UnknownName
from overspan.schema.hardware import HardwareSpec
from overspan.schema.inventory import Gpu, Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe
from overspan.schema.topology import Role

ALLOW_LONG: Final = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
"""With it vLLM takes a longer context than the model's. Source: vllm/config/model.py, _get_and_verify_max_len."""

UNIFIED_SHARE: Final = 0.95
"""Of unified memory: from there on starts fail and hosts hang, as the system lives in the same memory. Sources: vLLM
issue 46307 (a GB10 that hangs), github.com/MiaAI-Lab/DeepSeek-v4-Flash-DSpark-2x-DGX-Spark issue 5 (0.90 to 0.95)."""


def most_tokens(model: ModelSpec, recipe: Recipe) -> int | None:
    """The longest context that the model's config allows, what the recipe overrides in it counted; None: not known."""
    asked = recipe.engine_args.get("hf_overrides")
    scaling = recipe.engine_args.get("rope_scaling")
    if not asked and not scaling:
        return model.max_context
    try:
        found: Any = json.loads(asked) if isinstance(asked, str) else asked
        changes: dict[str, Any] = dict(found or {})
        whole = _merged(models.config_of(recipe.model), {**changes, **({"rope_scaling": scaling} if scaling else {})})
        # An override of the whole may or may not reach the text part: the larger of the two refuses nothing wrongly.
        return max(shapes.positions(shapes.text_part(whole)) or 0, shapes.positions({**whole, **changes}) or 0) or None
    except (ValueError, TypeError, AttributeError, OverspanError):
        return None


def _merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with changes, those of its parts within them. The rules of rope replace each other whole."""
    found = dict(config)
    for key, value in changes.items():
        is_part = isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and "rope" not in key
        found[key] = _merged(found[key], value) if is_part else value
        if key == "rope_scaling":
            found.pop("rope_parameters", None)
    return found


def beyond(model: ModelSpec, recipe: Recipe) -> tuple[int, int] | None:
    """Tokens asked for by max_model_len, and those that the model takes, where they are more; else None."""
    asked, most = memory.tokens_of(recipe.engine_args.get("max_model_len"), 0), most_tokens(model, recipe)
    return (asked, most) if most and asked > most else None


def too_long(model: ModelSpec, recipe: Recipe, inventory: Inventory) -> Iterator[str]:
    """Why max_model_len is refused, as vLLM itself does at its start."""
    found = beyond(model, recipe)
    if found and not allows_long(recipe, inventory):
        asked, most = found
        yield (
            f"max_model_len={asked} is more than the {most} positions of {model.name} (max_position_embeddings, rope "
            f"scaling counted): max_model_len={most} is the most; hf_overrides can state other rope scaling, and "
            f"env.{ALLOW_LONG}=1 goes beyond what the model was made for"
        )


def allows_long(recipe: Recipe, inventory: Inventory) -> bool:
    """Whether the engine is told to take a longer context than the model's, on every host or by the recipe."""
    given = [{**inventory.env, **host.env, **recipe.env} for host in inventory.hosts]
    return all(env.get(ALLOW_LONG, "").strip().lower() in {"1", "true"} for env in given)


def cautions(model: ModelSpec | None, role: Role, whole: Recipe, inventory: Inventory) -> Iterator[str]:
    """What may go wrong with the settings of a role and is refused by nobody, one sentence each."""
    recipe = whole.for_role(role)
    gpus = sum(len(host.gpus) for host in inventory.hosts)
    if gpus and inventory.device == "cpu":
        stated = f"inventory {inventory.name} states {gpus} GPUs and device: cpu"
        yield f"{stated}: the CPUs compute; device: cuda uses the GPUs"
    if model is not None and (found := beyond(model, recipe)):
        asked, most = found
        yield f"max_model_len={asked} with {ALLOW_LONG}: positions after {most} may give wrong text, or NaN"
    share = recipe.engine_args.get("gpu_memory_utilization", flags.VLLM.shipped["gpu_memory_utilization"]["default"])
    used = hosts_of(role.layout, inventory) or inventory.hosts
    kinds = sorted({gpu.kind for host in used for gpu in host.gpus if is_unified(gpu)})
    pool = "kv_cache_memory_bytes" in recipe.engine_args
    if kinds and not pool and isinstance(share, int | float) and share >= UNIFIED_SHARE:
        yield (
            f"gpu_memory_utilization={share:g} of unified memory ({', '.join(kinds)}): the system and its page cache "
            "live in it too, and the host may hang; 0.9 or less is usual"
        )


def is_unified(gpu: Gpu) -> bool:
    """Whether the GPU has no memory of its own: the catalogue says so of its kind, or else the inventory does.

    The GPU of a GH200 or GB200 reads the CPU's memory and has its own beside it: that is not unified.
    """
    found = known(gpu.kind)
    return found.memory.unified if found else gpu.unified_memory


def known(kind: str) -> HardwareSpec | None:
    """A kind of hardware, where the catalogue has it."""
    try:
        return hardware.find(kind)
    except UnknownName:
        return None
