"""What the catalogue knows beside sizes: features a recipe requires, arguments a model demands, faults of engines."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from overspan.catalog import files, releases
from overspan.planner.placement import hosts_of
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import EngineChoice
from overspan.schema.recipe import EngineName, Recipe
from overspan.schema.yamlio import plain


class ArgumentRule(NamedTuple):
    """What a model's architecture asks of an engine argument: a value that it must have, or must never have."""

    architecture: str
    argument: str
    says: str
    source: str
    value: Any = None
    never: Any = None
    spread: bool = False


class FaultConditions(NamedTuple):
    """What must hold for a fault; what is not named does not matter."""

    engine: EngineName | None = None
    architecture: str | None = None
    eager: bool | None = None
    pp_over: int = 0
    dp_over: int = 0
    hosts_over: int = 0

    def hold(self, model: ModelSpec | None, layout: Layout, inventory: Inventory, recipe: Recipe) -> bool:
        """Whether all of them do."""
        return (
            (self.engine is None or self.engine == recipe.engine)
            and (self.architecture is None or (model is not None and model.architecture == self.architecture))
            and (self.eager is None or self.eager == bool(recipe.engine_args.get("enforce_eager")))
            and layout.pp > self.pp_over
            and layout.dp > self.dp_over
            and len(hosts_of(layout, inventory)) > self.hosts_over
        )


class Fault(NamedTuple):
    """One known fault of an engine and its source. A fatal one rejects a layout from the ranking."""

    name: str
    when: FaultConditions
    says: str
    source: str
    instead: str
    fatal: bool

    def sentence(self) -> str:
        """The fault as a reason or a warning."""
        return f"{self.says} ({self.source}); instead: {self.instead}"


@functools.lru_cache(maxsize=1)
def argument_rules() -> list[ArgumentRule]:
    """Every rule on an argument."""
    return [ArgumentRule(**item) for item in plain(files.text("demands.yaml"))["demands"]]


@functools.lru_cache(maxsize=1)
def faults() -> list[Fault]:
    """Every known fault."""
    return [
        Fault(**item | {"when": FaultConditions(**item["when"])}) for item in plain(files.text("faults.yaml"))["faults"]
    ]


def known_faults(model: ModelSpec | None, layout: Layout, inventory: Inventory, recipe: Recipe) -> list[Fault]:
    """The faults that this layout, engine and model would meet."""
    return [fault for fault in faults() if fault.when.hold(model, layout, inventory, recipe)]


def broken_arguments(model: ModelSpec, layout: Layout, engine_args: dict[str, Any]) -> list[str]:
    """The rules on arguments that these break, one sentence each."""
    found = []
    for rule in argument_rules():
        if rule.architecture != model.architecture:
            continue
        given = engine_args.get(rule.argument)
        why = f"{rule.says} ({rule.source})"
        if rule.value is not None and given != rule.value:
            is_now = "is not set" if given is None else f"is {given}"
            found.append(f"{rule.argument} {is_now}; it must be {rule.value}: {why}")
        spread = layout.expert_parallel or layout.dp > 1
        if rule.never is not None and given == rule.never and (spread or not rule.spread):
            where = f" with {layout.label.upper()}" if rule.spread else ""
            found.append(f"{rule.argument} is {given}{where}: {why}")
    return found


def missing_features(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Iterator[str]:
    """One sentence for each required feature that the engine lacks.

    Raises:
        UnknownName: the recipe requires a feature that the catalogue does not know.
    """
    holds, version, brings = _engine(recipe, inventory, engine)
    for name in recipe.requires:
        feature = releases.find(name)
        if name not in brings and feature.missing(version):
            yield f"the recipe requires {name} ({feature.says}), and {holds} lacks it: {feature.where}"


def unsure_features(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> Iterator[str]:
    """One sentence for each required feature of which nobody knows whether the engine has it."""
    holds, version, brings = _engine(recipe, inventory, engine)
    for name in recipe.requires:
        if version is None and name not in brings:
            where = releases.find(name).where
            yield f"the recipe requires {name}; {holds}, so whether it is there is not known: {where}"


def _engine(recipe: Recipe, inventory: Inventory, engine: EngineChoice) -> tuple[str, str | None, list[str]]:
    """The engine in words, its version where that is known, and the features that patches are known to bring it."""
    own = [patch.name for patch in recipe.patches]
    if inventory.traits.containers == "never":
        return f"vLLM {engine.version}", engine.version, own
    image = engine.image or recipe.image
    version = releases.engine_version(image)
    holds = f"image {image}" + (f" (vLLM {version})" if version else " does not tell its vLLM")
    return holds, version, [*own, *releases.brings(image)]
