"""Why a layout cannot run, each reason with its arithmetic. Pure: nothing is started and no host is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from overspan.engines import registry
from overspan.planner import limits, memory
from overspan.planner.placement import hosts_of, unplaced
from overspan.schema.inventory import Gpu, Host, Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe
from overspan.schema.versions import version_of

_VARIABLE: Final = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\$[A-Za-z_]\w*|\{\{?\s*[A-Za-z_][\w.\- ]*\}?\}")
_PLACEHOLDER: Final = re.compile(r"<[A-Za-z][^<>]*>")
# Prose is not launched.
_PROSE: Final = ("description", "source", "known_answers", "warnings", "variants", "locked")


class Room(NamedTuple):
    """What a rank on a host has: its memory, what the system keeps of it, in bytes, and the hardware's family."""

    host: Host
    bytes: float
    reserve_bytes: float
    family: str | None

    def fit(self, model: ModelSpec, layout: Layout, recipe: Recipe) -> memory.MemoryFit:
        """What a rank needs there, see `memory.fit`."""
        return memory.fit(model, layout, recipe, self.bytes, reserve_bytes=self.reserve_bytes, family=self.family)


def refusals(
    model: ModelSpec | None,
    layout: Layout,
    inventory: Inventory,
    recipe: Recipe,
    *,
    of_recipe: Sequence[str] | None = None,
) -> list[str]:
    """Every reason why this cannot run; an empty list when none is known.

    Args:
        model: its sizes; None where they are not at hand: then only what needs no sizes is checked.
        layout: degrees of parallelism.
        inventory: the machines.
        recipe: engine, arguments and image.
        of_recipe: what `recipe_refusals` said, for who asks of many layouts.
    """
    reasons = list(recipe_refusals(recipe, inventory) if of_recipe is None else of_recipe)
    reasons += _not_native(layout, inventory, recipe)
    reasons += [why] if (why := unplaced(layout, inventory)) else []
    if model is not None:
        reasons += [*limits.too_long(model, recipe, inventory), *_indivisible(model, layout), *_blocks(model, layout)]
        if not reasons:
            reasons += _too_large(model, layout, inventory, recipe)
    return reasons


def recipe_refusals(recipe: Recipe, inventory: Inventory) -> list[str]:
    """The reasons that lie in the recipe, whatever the layout."""
    reasons, engine = list(_unresolved(recipe)), registry.find(recipe.engine)
    version = _image_version(recipe, inventory)
    if version is not None:
        holds = f"image {recipe.image} holds {engine.title} {version}"
        needed, have = version_of(recipe.engine_version), version_of(version)
        if needed and (have is None or have < needed):
            reasons.append(f"{holds}; the recipe needs {recipe.engine_version} or newer")
        reasons += [f"{holds}: {problem}" for problem in engine.flags.check(recipe.engine_args, version)]
    return reasons


def _image_version(recipe: Recipe, inventory: Inventory) -> str | None:
    contained = inventory.traits.containers != "never"
    return registry.find(recipe.engine).image_version(recipe.image) if contained else None


def _not_native(layout: Layout, inventory: Inventory, recipe: Recipe) -> Iterator[str]:
    """An image too old for several hosts without Ray."""
    engine, version = registry.find(recipe.engine), _image_version(recipe, inventory)
    name = engine.hosts_argument
    if version is None or not name or len(hosts_of(layout, inventory)) < 2:
        return
    if engine.flags.check({name: 2}, version):
        first = f"{engine.title} {engine.flags.notes['since'][name]['version']} or newer"
        holds = f"image {recipe.image} holds {engine.title} {version}"
        yield f"{holds}; several hosts without Ray need --{name}, {first} (--set engine=vllm-ray works)"


def _unresolved(recipe: Recipe) -> Iterator[str]:
    data = recipe.model_dump(mode="json", exclude=set(_PROSE), exclude_defaults=True)
    for field, text in _texts(data, ""):
        found = _VARIABLE.search(text)
        # In an engine argument `<think>` may be a token of the model; a whole value in brackets is a placeholder.
        if (
            found is None
            and (hole := _PLACEHOLDER.search(text))
            and (hole.group() == text or "engine_args" not in field)
        ):
            found = hole
        if found:
            yield f"'{field}' holds '{found.group()}', which nothing fills in (value: {text!r})"


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]")


def slots(host: Host, inventory: Inventory) -> int:
    """Ranks worth trying on a host: one a GPU, or one a core where there is none."""
    return len(host.gpus) if inventory.device == "cuda" else host.cores


def _indivisible(model: ModelSpec, layout: Layout) -> Iterator[str]:
    tp, heads, kv_heads = layout.tp, model.attention.heads, model.attention.kv_heads
    if heads % tp:
        yield f"TP{tp} does not divide {heads} attention heads ({heads} / {tp} = {heads / tp:.2f})"
    if model.attention.kind == "gqa":
        if kv_heads >= tp and kv_heads % tp:
            yield f"TP{tp} does not divide {kv_heads} KV heads ({kv_heads} / {tp} = {kv_heads / tp:.2f})"
        elif kv_heads < tp and tp % kv_heads:
            yield f"{kv_heads} KV heads cannot be copied evenly to TP{tp} ({tp} / {kv_heads} = {tp / kv_heads:.2f})"
    if layout.pp > model.layers:
        yield f"PP{layout.pp} has more stages than the model has layers ({model.layers})"
    if layout.expert_parallel and not model.experts:
        yield f"{layout.label} spreads experts, and {model.name} has none: leave ep out"
    elif layout.expert_parallel and model.experts % layout.ep:
        ratio = model.experts / layout.ep
        yield f"EP{layout.ep} does not divide {model.experts} experts ({model.experts} / {layout.ep} = {ratio:.2f})"
    for what, width, ranks in _split_widths(model, layout):
        if width % ranks:
            yield f"{ranks} ranks do not divide the {what} ({width} / {ranks} = {width / ranks:.2f})"


def _split_widths(model: ModelSpec, layout: Layout) -> Iterator[tuple[str, int, int]]:
    """What is cut along its width, and into how many parts."""
    if model.experts and not layout.expert_parallel:
        yield "width of an expert", model.expert_intermediate, memory.expert_ranks(layout)
    if model.moe_layers < model.layers:
        yield "width of the feed-forward layers", model.intermediate, layout.tp


def _blocks(model: ModelSpec, layout: Layout) -> Iterator[str]:
    """Quantisation blocks that a split would cut: vLLM refuses them while loading."""
    rules = model.quantisation
    if rules is None or rules.block is None:
        return
    side = max(rules.block)
    widths = [*_split_widths(model, layout)]
    if model.format_of("attention") == rules.format and model.attention.kind == "gqa":
        widths.append(("width of attention", model.attention.heads * model.attention.head_dim, layout.tp))
    for what, width, ranks in widths:
        if width % ranks == 0 and (width // ranks) % side:
            part = width // ranks
            advice = ": spread the experts instead (ep)" if "expert" in what else ""
            yield (
                f"{rules.format} blocks of {side} do not divide the {what} on {ranks} ranks "
                f"({width} / {ranks} = {part}; {part} / {side} = {part / side:.2f}){advice}"
            )


def _too_large(model: ModelSpec, layout: Layout, inventory: Inventory, recipe: Recipe) -> Iterator[str]:
    for room in rank_memory(layout, inventory):
        fit = room.fit(model, layout, recipe)
        if fit.fits:
            continue
        what = fit.arithmetic()
        if fit.needed <= fit.budget:
            sizes = (
                f"{fit.room / memory.GB:.1f} GB, and one sequence of the whole context needs {fit.kv / memory.GB:.1f}"
            )
            what = f"kv_cache_memory_bytes is {sizes} GB"
        yield f"{layout.label} does not fit a rank on {room.host.name}: {what}{_what_fits(model, layout, recipe, fit)}"
        return


def _what_fits(model: ModelSpec, layout: Layout, recipe: Recipe, fit: memory.MemoryFit) -> str:
    """The cache, or the longest context, that would fit, when that alone is too large."""
    values = memory.kv_value_bytes(model, recipe.engine_args)
    token = model.kv_bytes(1, values) * memory.kv_share(model, layout)
    if fit.pool is not None and fit.needed > fit.budget:
        free = fit.budget - fit.beside
        return f"; kv_cache_memory_bytes={int(free)} would fit" if free > token * 16 else ""
    return f"; max_model_len={int(fit.room / token)} would fit" if token and fit.room > token * 16 else ""


def rank_memory(layout: Layout, inventory: Inventory) -> Iterator[Room]:
    """What a rank has on the hosts that hold ranks; of equal ones the first."""
    used = hosts_of(layout, inventory)
    told = set()
    for host in used or inventory.hosts:
        room = Room(host, 0.0, 0.0, None)
        if inventory.device == "cuda" and host.gpus:
            room = _of_gpu(host, min(host.gpus, key=lambda gpu: gpu.size_bytes))
        elif inventory.device == "cpu":
            each = host.memory_bytes / max(1, layout.world_size // max(1, len(used)))
            room = Room(host, each, 0.0, "cpu")
        if room.bytes and room[1:] not in told:
            told.add(room[1:])
            yield room


def smallest_rank(layout: Layout, inventory: Inventory) -> Room:
    """What the rank has that has the least."""
    return min(rank_memory(layout, inventory), key=lambda room: room[1:3])


def _of_gpu(host: Host, gpu: Gpu) -> Room:
    known = limits.known(gpu.kind)
    reserve = known.memory.reserve_bytes if known and limits.is_unified(gpu) else 0.0
    return Room(host, float(gpu.size_bytes), reserve, known.family if known else None)
