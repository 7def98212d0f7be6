"""Known faults of engines, from the catalogue: they reject a layout or warn of it."""

import functools
from typing import Any

from overspan.catalog import files
from overspan.planner.refuse import hosts_used
from overspan.schema.base import Frozen
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import EngineName, Recipe
from overspan.schema.yamlio import plain


class When(Frozen):
    """What must hold for a fault; what is not named does not matter."""

    engine: EngineName | None = None
    architecture: str | None = None
    eager: bool | None = None
    pp_over: int = 0
    dp_over: int = 0
    hosts_over: int = 0


class Fault(Frozen):
    """One known fault and its source. A fatal one rejects a layout from the ranking."""

    name: str
    when: When
    says: str
    source: str
    instead: str
    fatal: bool

    def sentence(self) -> str:
        """The fault as a reason or a warning."""
        return f"{self.says} ({self.source}); instead: {self.instead}"


@functools.lru_cache(maxsize=1)
def catalogue() -> list[Fault]:
    """Every known fault."""
    data: dict[str, Any] = plain(files.text("faults.yaml"))
    return [Fault.model_validate(item) for item in data["faults"]]


def known(model: ModelSpec | None, layout: Layout, inventory: Inventory, recipe: Recipe) -> list[Fault]:
    """The faults that this layout, engine and model would meet."""
    return [fault for fault in catalogue() if _holds(fault.when, model, layout, inventory, recipe)]


def _holds(when: When, model: ModelSpec | None, layout: Layout, inventory: Inventory, recipe: Recipe) -> bool:
    return (
        (when.engine is None or when.engine == recipe.engine)
        and (when.architecture is None or (model is not None and model.architecture == when.architecture))
        and (when.eager is None or when.eager == bool(recipe.engine_args.get("enforce_eager")))
        and layout.pp > when.pp_over
        and layout.dp > when.dp_over
        and hosts_used(layout, inventory) > when.hosts_over
    )
