"""From what the user asked for to a checked plan; nothing is started and no connection is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from overspan.catalog import hardware, inventories, library, overrides, recipes
from overspan.engines import registry
from overspan.engines.node import who_reaches
from overspan.planner import limits, offer
from overspan.planner.inputs import readable
from overspan.planner.make import make_plan
from overspan.runs.join import ranks
from overspan.runs.join.ranks import Part
from overspan.schema.errors import PlanRefused, RecipeError
from overspan.schema.inventory import Inventory
from overspan.schema.paste import command
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.slo import parse_slo
from overspan.schema.workload import Demand
from overspan.store.locks import Say, quiet

Weights = Literal["real", "synthetic"]
"""Of a checkpoint, or drawn on the device (see `overspan.provision.synthetic`)."""


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


def plan_of(wanted: Wanted, *, to_start: bool, say: Say = quiet) -> Plan:
    """The plan, checked as far as that goes without starting anything.

    Args:
        wanted: what to plan.
        to_start: whether the engine must be there; a plan alone can be made without it. Then it is also asked what it
            takes, once a version.
        say: told that.

    Raises:
        InputError: something of it cannot be; names the field.
        PlanRefused: the layout cannot run on these machines; with every reason.
    """
    recipe, inventory = asked_for(wanted)
    me = None
    if wanted.part is not None:
        inventory, me = ranks.at_home(inventory)
    slo = parse_slo(wanted.slo)
    engine = registry.find(recipe.engine)
    choice = engine.choose(recipe, inventory, to_start=to_start)
    if to_start:
        engine.learn(choice, say)
    if problems := engine.flags.check(recipe.engine_args, choice.version):
        raise RecipeError(f"engine_args: {problems[0]}")
    if recipe.api_key and (why := engine.keyless(recipe)):
        instead = "--set api_key=false --set host=127.0.0.1, and let a proxy that asks for keys stand in front"
        raise PlanRefused("this plan cannot run:", [f"api_key: {why}"], next=instead)
    try:
        made = make_plan(recipe, inventory, choice, wanted.demand, slo)
    except PlanRefused as refused:
        refused.next = _offer(wanted, offer.settings(recipe, inventory, choice, wanted.demand, slo)) or refused.next
        raise
    made = made.with_(notes=[*made.notes, *_exposure(made)])
    return made if wanted.part is None or me is None else ranks.part_of(made, me, wanted.part)


def offered(wanted: Wanted) -> str | None:
    """The line to paste that starts what was refused; None where no settings are known with which it runs."""
    recipe, inventory = asked_for(wanted)
    choice = registry.find(recipe.engine).choose(recipe, inventory, to_start=False)
    return _offer(wanted, offer.settings(recipe, inventory, choice, wanted.demand, parse_slo(wanted.slo)))


def _offer(wanted: Wanted, settings: list[str]) -> str | None:
    """The line to paste that starts what was refused, with these settings over the user's own."""
    if not settings or wanted.part == "joiner":  # a joiner's settings are those of its head
        return None
    words: list[object] = ["overspan", "up", wanted.recipe]
    load = wanted.demand.asked if wanted.demand else {}
    given = {"on": wanted.inventory, "name": wanted.name, **load, "slo": wanted.slo, "hardware": wanted.hardware}
    for name, value in given.items():
        words += [f"--{name}", f"{value:g}" if isinstance(value, float) else value] if value is not None else []
    words += ["--weights", wanted.weights] if wanted.weights != "real" else []
    words += ["--join-later"] if wanted.part == "head" else []
    changed = {setting.partition("=")[0] for setting in settings}
    kept = [setting for setting in wanted.settings if setting.partition("=")[0].replace("-", "_") not in changed]
    return command(*words, *(word for setting in [*kept, *settings] for word in ("--set", setting)))


def _exposure(plan: Plan) -> list[str]:
    """Who can use the endpoint, and whose code the engine runs."""
    recipe = plan.recipe
    key = "clients need a key" if recipe.api_key else "no key is needed"
    notes = [f"who can use the endpoint: {who_reaches(plan)}; {key}"]
    if recipe.engine_args.get("trust_remote_code") and recipe.revision is None and not Path(recipe.model).is_dir():
        code = f"trust_remote_code runs the Python code of {recipe.model} as it is on the day of the download"
        notes.append(f"{code}; --set revision=COMMIT pins it")
    return notes


def asked_for(wanted: Wanted) -> tuple[Recipe, Inventory]:
    """The recipe with its settings, and the machines: this one where none are named.

    Raises:
        InputError: something of it cannot be; names the field.
    """
    recipe = overrides.apply(recipes.find(wanted.recipe), list(wanted.settings))
    if wanted.weights == "synthetic":
        from overspan.provision.synthetic import with_synthetic_weights

        recipe = with_synthetic_weights(recipe)
    inventory = readable(inventories.find(wanted.inventory) if wanted.inventory else _this_machine())
    if inventory.traits.here and (long := os.environ.get(limits.ALLOW_LONG)):
        inventory = inventory.with_(env={limits.ALLOW_LONG: long, **inventory.env})  # an engine here inherits it
    if wanted.hardware:
        own = hardware.find(wanted.hardware).name  # a mistake in it is told now
        file = str(Path(wanted.hardware).resolve()) if library.is_path(wanted.hardware) else own
        inventory = inventory.with_(hardware=file)
    return _with_image(recipe, inventory), inventory


def _with_image(recipe: Recipe, inventory: Inventory) -> Recipe:
    """A model that no recipe was written for runs in the engine's own image where containers are started."""
    engine = registry.find(recipe.engine)
    if inventory.traits.containers != "always" or recipe.image is not None or engine.usual_image is None:
        return recipe
    image = engine.usual_image.format(version=recipe.engine_version or engine.usual_version)
    said = f"no image is named, so {engine.title}'s own: {image} (--set image=NAME:TAG takes another)"
    return recipe.with_(image=image, warnings=[*recipe.warnings, said])


def _this_machine() -> Inventory:
    # Imported when asked: a plan for other machines needs no probe of this one.
    from overspan.inventory.here import this_machine

    return this_machine()


def processes_of(plan: Plan) -> list[ProcessSpec]:
    """The processes that this run starts, by the plan's engine.

    Raises:
        PlanRefused: the engine cannot run it.
    """
    own = [spec for spec in registry.find(plan.engine.name).processes(plan) if plan.part in (None, spec.host)]
    wanted = plan.recipe.secrets
    return [spec.with_(secrets=list(dict.fromkeys([*spec.secrets, *wanted]))) for spec in own] if wanted else own
