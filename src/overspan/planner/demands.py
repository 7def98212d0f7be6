"""What a model's architecture asks of the engine's arguments, from the catalogue."""

import functools
from typing import Any

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.yamlio import plain


class Demand(Frozen):
    """One rule: an argument that must have a value, or must never have one."""

    architecture: str
    argument: str
    value: Any = None
    never: Any = None
    spread: bool = False
    says: str
    source: str


@functools.lru_cache(maxsize=1)
def catalogue() -> list[Demand]:
    """Every rule."""
    return [Demand.model_validate(item) for item in plain(files.text("demands.yaml"))["demands"]]


def unmet(model: ModelSpec, layout: Layout, engine_args: dict[str, Any]) -> list[str]:
    """The rules that these arguments break, one sentence each."""
    found = []
    for rule in catalogue():
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
