"""The launchers by their names: those that are built in, and those of other packages by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from overspan.schema.errors import UnknownName
from overspan.schema.extensions import LAUNCHERS, load
from overspan.schema.launcher_traits import BUILT_IN

if TYPE_CHECKING:
    from overspan.launchers.base import Launcher
    from overspan.schema.plan import Plan
    from overspan.store.run_folder import RunFolder
    from overspan.transport.base import Transport


def find(name: str) -> type[Launcher]:
    """The launcher of that name; its module is imported now.

    Raises:
        UnknownName: none of that name is built in or installed.
        OverspanError: its package cannot be imported.
    """
    if name in BUILT_IN:
        built_in: type[Launcher] = import_module(f"overspan.launchers.{name}").LAUNCHER
        return built_in
    extension: type[Launcher] | None = load(LAUNCHERS, name)
    if extension is None:
        raise UnknownName("launcher", name, BUILT_IN)
    return extension


def launcher_of(
    plan: Plan, run: RunFolder | None = None, transports: Mapping[str, Transport] | None = None
) -> Launcher:
    """The launcher that the plan's inventory names; see `Launcher`."""
    return find(plan.inventory.launcher)(plan, run, transports)
