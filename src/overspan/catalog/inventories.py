"""Inventories that ship, and files of the user's own."""

from __future__ import annotations

import re

from overspan.catalog import library
from overspan.schema import secrets
from overspan.schema.inventory import Inventory

_FOLDER = "inventories"

_GIVEN = re.compile(r"^(?:--env|-e)[=\n]?(\w+)=", re.MULTILINE)
"""A variable to which options of `docker run`, one a line, give a value."""


def names() -> list[str]:
    """The inventories that ship."""
    return library.names(_FOLDER)


def find(name: str) -> Inventory:
    """An inventory by its name, or the path of a YAML file.

    Raises:
        UnknownName: no such inventory ships, with the nearest names.
        RecipeError: the file cannot be read or does not hold an inventory, or a secret stands in it.
    """
    inventory, file, _ = library.find(Inventory, _FOLDER, name, "inventory")
    secrets.refuse_env(inventory.env, where=f"{file}: env")
    for host in inventory.hosts:
        secrets.refuse_env(host.env, where=f"{file}: env of host {host.name}")
        given = _GIVEN.findall("\n".join(host.container.options)) if host.container else []
        secrets.refuse_env(given, where=f"{file}: container.options of host {host.name}")
    return inventory
