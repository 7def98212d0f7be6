"""Accelerators as data: a new kind is one YAML file."""

from __future__ import annotations

import re

from overspan.catalog import library
from overspan.schema.errors import UnknownName
from overspan.schema.hardware import HardwareSpec

_FOLDER = "hardware"


def names() -> list[str]:
    """The kinds that ship."""
    return library.names(_FOLDER)


def find(name: str) -> HardwareSpec:
    """A kind by its name, the name that the driver gives it, or the path of a YAML file.

    Raises:
        UnknownName: no such kind, with the nearest names.
        RecipeError: the file is malformed, or a number is in the wrong unit.
    """
    if library.is_path(name) or name in names():
        return library.find(HardwareSpec, _FOLDER, name, "hardware")[0]
    known = [
        (part, kind) for kind in names() for part in library.find(HardwareSpec, _FOLDER, kind, "hardware")[0].names
    ]
    matches = [
        (len(part), kind) for part, kind in known if re.search(rf"\b{re.escape(part)}(?!\w)", name, re.IGNORECASE)
    ]
    if not matches:
        raise UnknownName("hardware", name, names())
    return library.find(HardwareSpec, _FOLDER, max(matches)[1], "hardware")[0]
