"""Accelerators as data: a new kind is one YAML file."""

from __future__ import annotations

import functools
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
    if name in names():
        return _shipped(name)
    if library.is_path(name):
        return library.find(HardwareSpec, _FOLDER, name, "hardware")[0]
    found = [
        (len(part), kind)
        for kind in names()
        for part in _shipped(kind).names
        if re.search(rf"\b{re.escape(part)}(?!\w)", name, re.IGNORECASE)
    ]
    if not found:
        raise UnknownName("hardware", name, names())
    return _shipped(max(found)[1])


def of_pci(device: str) -> HardwareSpec | None:
    """The kind with that PCI device id (four hexadecimal digits), where one ships."""
    return next((spec for spec in map(_shipped, names()) if device.lower() in spec.pci), None)


@functools.cache
def _shipped(name: str) -> HardwareSpec:
    return library.find(HardwareSpec, _FOLDER, name, "hardware")[0]
