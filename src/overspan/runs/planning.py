"""From what the user asked for to a checked plan; nothing is started and no connection is made."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overspan.catalog import flags, hardware, images, inventories, library, overrides, recipes
from overspan.engines import vllm, vllm_ray
from overspan.planner import layouts
from overspan.planner.make import make_plan, sizes
from overspan.runs.join import ranks
from overspan.runs.join.ranks import Part
from overspan.schema.errors import EngineMissing, InputError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.prediction import Demand
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import EngineName, Recipe
from overspan.schema.slo import parse_slo

if TYPE_CHECKING:
    from overspan.provision.engines import EngineEnv

Weights = Literal["real", "synthetic"]
"""Of a checkpoint, or drawn on the device (see `overspan.provision.synthetic`)."""

_ENGINES = {"vllm": vllm.processes, "vllm-ray": vllm_ray.processes}

_LOCKS: dict[EngineName, str] = {"vllm": "{device}", "vllm-ray": "{device}-ray", "dynamo": "dynamo"}
"""The installed engine that runs a recipe's, where the inventory names no environment."""


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: a recipe (or a model in its place), where, and what is different this time."""

    recipe: str
    inventory: str | None = None
    settings: tuple[str, ...] = ()
    name: str | None = None
    demand: Demand | None = None
    slo: str | None = None
    hardware: str | None = None
    part: Part | None = None
    weights: Weights = "real"


def plan_of(wanted: Wanted, *, to_start: bool) -> Plan:
    """The plan, checked as far as that goes without starting anything.

    Args:
        wanted: what to plan.
        to_start: whether the engine must be there; a plan alone can be made without it.

    Raises:
        InputError: something of it cannot be; names the field.
        PlanRefused: the layout cannot run on these machines; with every reason.
    """
    recipe, inventory = asked_for(wanted)
    me = None
    if wanted.part is not None:
        inventory, me = ranks.at_home(inventory)
    model, _ = sizes(recipe)
    recipe, why = layouts.with_layout(recipe, model, inventory, wanted.demand, parse_slo(wanted.slo))
    engine = engine_of(recipe, inventory, to_start=to_start)
    if recipe.topology is not None and recipe.engine == "vllm":
        engine = engine.with_(router=_router(inventory, to_start=to_start))
    flags.require(recipe.engine_args, engine.version)
    made = make_plan(recipe, inventory, engine, wanted.demand)
    made = made.with_(notes=[why, *made.notes]) if why else made
    return made if wanted.part is None or me is None else ranks.part_of(made, me, wanted.part)


def asked_for(wanted: Wanted) -> tuple[Recipe, Inventory]:
    """The recipe with its settings, and the machines: this one where none are named.

    Raises:
        InputError: something of it cannot be; names the field.
    """
    recipe = overrides.apply(recipes.find(wanted.recipe), list(wanted.settings))
    if wanted.weights == "synthetic":
        from overspan.provision.synthetic import with_synthetic_weights

        recipe = with_synthetic_weights(recipe)
    inventory = inventories.find(wanted.inventory) if wanted.inventory else _this_machine()
    if wanted.hardware:
        own = hardware.find(wanted.hardware).name  # a mistake in it is told now
        file = str(Path(wanted.hardware).resolve()) if library.is_path(wanted.hardware) else own
        inventory = inventory.with_(hardware=file)
    return _with_image(recipe, inventory), inventory


def _with_image(recipe: Recipe, inventory: Inventory) -> Recipe:
    """A model that no recipe was written for runs in vLLM's own image where containers are started."""
    if inventory.traits.containers != "always" or recipe.image is not None or recipe.engine != "vllm":
        return recipe
    image = images.usual(recipe.engine_version or flags.LATEST)
    said = f"no image is named, so vLLM's own: {image} (--set image=NAME:TAG takes another)"
    return recipe.with_(image=image, warnings=[*recipe.warnings, said])


def _this_machine() -> Inventory:
    # Imported when asked: a plan for other machines needs no probe of this one.
    from overspan.inventory.here import this_machine

    return this_machine()


def processes_of(plan: Plan) -> list[ProcessSpec]:
    """The processes that this run starts, by the plan's engine."""
    if plan.recipe.topology is not None:
        from overspan.runs import disaggregated

        return disaggregated.processes(plan)
    engine = _ENGINES.get(plan.engine.name)
    if engine is None:
        label = plan.layout.label.upper()
        reason = f"engine {plan.engine.name} runs prefill and decode workers, and the recipe has no topology"
        instead = f"--set 'topology=1P1D {label}->{label}', or --set engine=vllm"
        raise PlanRefused("this plan cannot be started:", [reason], next=instead)
    return [spec for spec in engine(plan) if plan.part in (None, spec.host)]


def _installed(kind: str) -> EngineEnv:
    # Imported when asked, as everything here that a plan for other machines does without.
    from overspan.provision.engines import find

    return find(kind)


def _version_in(environment: Path) -> str | None:
    from overspan.provision.engines import version_in

    return version_in(environment)


def _router(inventory: Inventory, *, to_start: bool) -> str | None:
    """The environment of vLLM's router: the inventory's, or the one that is installed here."""
    if inventory.router_environment or not inventory.traits.here:
        return inventory.router_environment
    try:
        return str(_installed("router").path)
    except EngineMissing:
        if to_start:
            raise
        return None


def engine_of(recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
    """The engine that runs a recipe on machines.

    Args:
        recipe: what is to run.
        inventory: where.
        to_start: whether the engine must be there.

    Raises:
        EngineMissing: it must be there and is not.
    """
    if inventory.contains(recipe.image):
        return _image(recipe, inventory)
    if not inventory.traits.here:  # its programs are the nodes' own
        return EngineChoice(
            name=recipe.engine,
            version=recipe.engine_version or flags.LATEST,
            environment=inventory.engine_environment,
        )
    if inventory.engine_environment or inventory.device == "cuda":
        return _own(recipe, inventory, to_start=to_start)
    try:
        found = _installed(_LOCKS[recipe.engine].format(device=inventory.device))
    except EngineMissing:
        if to_start:
            raise
        return EngineChoice(name=recipe.engine, version=flags.LATEST)
    if recipe.locked and recipe.locked.engine_version != found.version:
        raise InputError(
            f"the lock of run {recipe.locked.run} was made with engine {recipe.locked.engine_version}; "
            f"installed is {found.version}",
            next="install that engine, or start from the recipe in place of the lock",
        )
    return EngineChoice(name=recipe.engine, version=found.version, environment=str(found.path))


def _own(recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
    """An engine that the user installed: the environment that the inventory names, or that of `vllm` on the PATH."""
    program = shutil.which("vllm")
    folder = inventory.engine_environment or (str(Path(program).parent.parent) if program else None)
    version = _version_in(Path(folder)) if folder else None
    if version is None and to_start:
        raise EngineMissing(
            f"this machine has GPUs and no vLLM {f'in {folder}' if folder else 'on the PATH'}",
            next="pip install vllm in an environment of its own and put it on the PATH, or start containers: --on FILE",
        )
    return EngineChoice(name=recipe.engine, version=version or flags.LATEST, environment=folder)


def _image(recipe: Recipe, inventory: Inventory) -> EngineChoice:
    if recipe.image is None:
        raise InputError(
            f"recipe {recipe.name} names no image, and inventory {inventory.name} starts containers",
            next="--set image=NAME:TAG",
        )
    image = inventory.images.get(recipe.image, recipe.image)
    return EngineChoice(
        name=recipe.engine,
        version=recipe.engine_version or images.engine_version(image) or flags.LATEST,
        environment=inventory.engine_environment,
        image=image,
    )


def engine_python() -> str:
    """The Python of the engine on this machine: of `vllm` on the PATH, or the installed CPU engine; else our own."""
    program = shutil.which("vllm")
    beside = Path(program).with_name("python") if program else None
    if beside is not None and beside.exists():
        return str(beside)
    try:
        return str(_installed("cpu").python)
    except EngineMissing:
        return sys.executable
