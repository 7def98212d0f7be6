"""What a planner's question is about: a recipe, its model's sizes and the hardware of an inventory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from overspan.catalog import hardware, library, models, overrides, recipes
from overspan.planner import memory
from overspan.planner.features import Case
from overspan.planner.placement import hosts_of
from overspan.planner.predict import capacity_of, setting_of
from overspan.planner.refuse import rank_memory, slots
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.hardware import HardwareSpec
from overspan.schema.inventory import Gpu, Host, Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.paste import command
from overspan.schema.recipe import Recipe
from overspan.schema.workload import REQUESTS_A_USER, Demand, Workload


def resolve(name: str, settings: Iterable[str] = ()) -> tuple[Recipe, ModelSpec]:
    """A recipe or a model by name, with overrides, and the model's sizes.

    Raises:
        UnknownName: neither a recipe nor a model of that name is known.
        InputError: a setting is wrong, or the model's sizes are not at hand.
    """
    found = None if name in recipes.names() else models.lookup(name)
    recipe = Recipe(name=_slug(name), model=name) if found else recipes.find(name)
    recipe = overrides.apply(recipe, settings)
    model = found if found and recipe.model == name else models.lookup(recipe.model)
    if model is None:
        fetch = command("hf", "download", recipe.model, "config.json")
        raise InputError(
            f"the sizes of {recipe.model} are not known: Overspan ships none for it, and it is not on this machine",
            next=f"{fetch}, or a folder; sizes ship for {', '.join(models.names())}",
        )
    return recipe, model


def _slug(name: str) -> str:
    return recipes.for_model(name).name


def what_if(kind: str, hosts: int = 1, gpus_per_host: int | None = None) -> Inventory:
    """An inventory of machines that are not there: some hosts with some GPUs of a kind.

    Raises:
        UnknownName: no such kind of hardware.
    """
    spec = hardware.find(kind)
    each = gpus_per_host or spec.gpus_per_host
    size, unified = round(spec.memory.bytes), spec.memory.unified
    cpu = spec.family == "cpu"
    gpu = [Gpu(index=i, kind=spec.name, memory_bytes=size, unified_memory=unified) for i in range(0 if cpu else each)]
    return Inventory(
        name=f"{hosts}x{each}-{spec.name}",
        hardware=kind if library.is_path(kind) else None,
        description="a what-if: these machines were not detected",
        launcher="local" if cpu else "docker",
        device="cpu" if cpu else "cuda",
        hosts=[Host(name=f"host{index}", cores=each, memory_bytes=size, gpus=gpu) for index in range(hosts)],
    )


def readable(inventory: Inventory) -> Inventory:
    """The inventory, where enough is known of its GPUs to plan for them. A host with GPUs is no host without.

    Raises:
        InputError: GPUs of a host, or the memory of one, could not be read; says what to write.
    """
    if inventory.device != "cuda":
        return inventory
    for host in inventory.hosts:
        why = next((host.unknown[fact] for fact in ("gpus", "nvidia_smi") if fact in host.unknown), None)
        if why is not None and not host.gpus:
            told = [f"{fact}: {reason}" for fact, reason in host.unknown.items() if fact.startswith("GPU ")]
            raise InputError(
                f"the GPUs of {host.name} could not be read: {'; '.join([why, *told])}", next=_ASKED.format(host.name)
            )
        bare = ", ".join(str(gpu.index) for gpu in host.gpus if gpu.memory_bytes is None)
        if bare:
            reasons = [reason for fact, reason in host.unknown.items() if fact.startswith("memory of GPU")]
            told = [f" ({'; '.join(reasons)})" if reasons else ""]
            raise InputError(
                f"the memory of GPU {bare} of {host.name} is not known{told[0]}",
                next="write `memory_bytes` of each in the inventory, as `sudo nvidia-smi` there shows it; "
                "with MIG mode on, that of one instance (nvidia-smi -L)",
            )
    return inventory


_ASKED: Final = (
    "`nvidia-smi` on {} shows more; to plan for its CPUs, keep what `overspan detect` prints in a file, "
    "write `device: cpu` there, and give it to --on"
)


def hardware_of(inventory: Inventory) -> HardwareSpec:
    """The slowest kind of hardware in an inventory: every step waits for it.

    Raises:
        InputError: the hardware is not in the catalogue.
    """
    if inventory.hardware is not None:
        return hardware.find(inventory.hardware)
    if inventory.device == "cpu":
        return hardware.find("cpu")
    kinds = {gpu.kind for host in inventory.hosts for gpu in host.gpus}
    if not kinds:
        raise InputError(f"inventory {inventory.name} has no GPU", next="overspan detect, or --gpu KIND for a what-if")
    try:
        found = [hardware.find(kind) for kind in kinds]
    except UnknownName as error:
        raise InputError(
            f"{error.what}: its speed is not known",
            next="overspan calibrate measures it there and writes a YAML for --hardware",
        ) from None
    return min(found, key=lambda spec: spec.bandwidth.bytes_per_s)


def case_of(model: ModelSpec, recipe: Recipe, layout: Layout, inventory: Inventory, demand: Demand) -> Case:
    """The case to predict: this layout on these machines."""
    spec = hardware_of(inventory)
    used = len(hosts_of(layout, inventory))
    per_host = layout.world_size // used if used else min(slots(host, inventory) for host in inventory.hosts)
    return Case(
        model=model,
        layout=layout,
        hardware=_for_each(spec, max(1, per_host)),
        demand=demand,
        setting=setting_of(recipe, model, spec),
        gpus_per_host=max(1, per_host, spec.domain_gpus),
    )


def capacity(case: Case, recipe: Recipe, inventory: Inventory) -> float:
    """Requests whose cache fits one DP group, on the rank that has least room; infinity where no memory is known."""
    held = rank_memory(case.layout, inventory)
    return min((capacity_of(case, recipe, room.bytes, room.reserve_bytes) for room in held), default=math.inf)


def _for_each(spec: HardwareSpec, ranks: int) -> HardwareSpec:
    """What one of some ranks on a host has: a GPU is its own, the cores and the memory of a CPU are shared."""
    if spec.family != "cpu" or ranks == 1:
        return spec
    share = spec.bandwidth.with_(bytes_per_s=spec.bandwidth.bytes_per_s / ranks)
    rates = {name: rate.with_(flop_per_s=rate.flop_per_s / ranks) for name, rate in spec.rates.items()}
    return spec.with_(bandwidth=share, rates=rates)


def check_context(recipe: Recipe, model: ModelSpec, demand: Demand) -> list[str]:
    """Whether requests of this length can be served.

    Returns:
        What must be set before a launch, as a note.

    Raises:
        InputError: they are longer than the model takes.
    """
    args, tokens = recipe.engine_args, demand.isl + demand.osl
    stretched = args.get("hf_overrides") or args.get("rope_scaling")
    asked = f"--input-tokens {demand.isl:.0f} + --output-tokens {demand.osl:.0f} is a request of {tokens:.0f} tokens"
    if model.max_context and tokens > model.max_context and not stretched:
        raise InputError(
            f"{asked}, and {model.name} takes {model.max_context} (max_position_embeddings)",
            next="shorter requests, or rope scaling: --set hf_overrides=...",
        )
    served = memory.tokens_of(args.get("max_model_len"), 0)
    return [f"{asked}: to serve it, --set max_model_len={tokens:.0f} or more"] if 0 < served < tokens else []


def usual_demand(recipe: Recipe, model: ModelSpec) -> Demand:
    """The load where none is named: that of a bench with one user, or what half the context holds."""
    half = max(1, memory.tokens_of(recipe.engine_args.get("max_model_len"), model.max_context or 4096) // 2)
    found = Workload(requests=1, requests_a_user=REQUESTS_A_USER).demand(users=1)
    return found.with_(isl=min(found.isl, half), osl=min(found.osl, half))
