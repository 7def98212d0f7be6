"""What the shell completes: names that ship, and this machine's runs, sweeps and engines.

Documents are not read for it: their names are those of files and folders.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from overspan.catalog import files
from overspan.schema.places import cache_dir, state_dir

_REAL: Final = ("cli", "schema", "schema.errors", "schema.defaults", "schema.units", "schema.printable", "schema.paste")


def names(kind: str) -> Iterable[str]:
    """The names of one kind: `recipes`, `models`, `hardware`, `inventories`, `sweeps` and `engines` of the catalogue,
    `installed` engines, or the ids and names of `runs` and measured sweeps (`sweeps-here`)."""
    folders = {
        "runs": state_dir() / "runs",
        "sweeps-here": state_dir() / "sweeps",
        "installed": cache_dir() / "engines",
    }
    try:
        if kind not in folders:
            return [file.stem for file in (files.FOLDER / kind).glob("*.yaml")]
        held = [entry.name for entry in folders[kind].iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []
    if kind == "installed":
        return [each.rpartition("-")[0] for each in held]
    return [*held, *(each.rsplit("-", 3)[0] for each in held)]


def load_quickly(module: str) -> ModuleType | None:
    """A command's module for the sake of its options alone; None where it cannot be had so.

    What its functions would call is not imported: stand-ins take the place of the rooms below `cli`, and of pydantic.
    """
    before, finder = set(sys.modules), _StandIns()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(module)
    except (TypeError, AttributeError, ValueError):  # it looks into what a stand-in has not
        sys.modules.pop(module, None)
        return None
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], _StandIn):
                del sys.modules[name]


class _StandIn(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StandIns(MetaPathFinder, Loader):
    """Finds stand-ins."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """A stand-in, or None for what is imported as always."""
        root, _, rest = fullname.partition(".")
        if root == "pydantic" or (root == "overspan" and rest not in _REAL and not rest.startswith("cli.")):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty one."""
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is run."""
