"""The engines by their names: those that are built in, and those of other packages by entry point."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from overspan.schema.errors import UnknownName
from overspan.schema.extensions import ENGINES, load
from overspan.schema.recipe import BUILT_IN_ENGINES

if TYPE_CHECKING:
    from overspan.engines.base import Engine


def find(name: str) -> Engine:
    """The engine of that name; its module is imported now.

    Raises:
        UnknownName: none of that name is built in or installed.
        OverspanError: its package cannot be imported.
    """
    if name in BUILT_IN_ENGINES:
        built_in: Engine = import_module(f"overspan.engines.{name.replace('-', '_')}").ENGINE
        return built_in
    extension: Engine | None = load(ENGINES, name)
    if extension is None:
        raise UnknownName("engine", name, BUILT_IN_ENGINES)
    return extension
