"""Inventories that ship, and files of the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from overspan.catalog import files, hardware, library
from overspan.schema import secrets, yamlio
from overspan.schema.errors import RecipeError
from overspan.schema.inventory import Inventory, clashes

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
    for _, where, given in _variables(inventory.model_dump(include={"env": True, "hosts": True})):
        secrets.refuse_env(given, where=f"{file}: {where}")
    return inventory


def text_of(name: str) -> str:
    """The text of an inventory that ships, or of a file, once it is known to hold one; see `find`."""
    find(name)
    return library.text_of(_FOLDER, name, "inventory")[0]


def example(kind: str) -> str:
    """An inventory to start from, with remarks."""
    return files.text("inventory_examples", f"{kind}.yaml")


def problems(name: str) -> list[RecipeError]:
    """Everything that is wrong with an inventory, in the order of its lines; malformed YAML hides the rest of it.

    Raises:
        UnknownName: no such inventory ships, with the nearest names.
        RecipeError: the file cannot be read.
    """
    text, file = library.text_of(_FOLDER, name, "inventory")
    data, places, found = yamlio.problems(Inventory, text, file)
    if not isinstance(data, dict):
        return found
    if between := [yamlio.problem_at(place, "{}: " + why, file, places) for place, why in clashes(data)]:
        found = [each for each in found if each.field != "document"] + between
    for place, where, given in _variables(data):
        for variable in given:
            try:
                secrets.refuse_env([variable], where=where)
            except RecipeError as error:
                told = yamlio.problem_at((*place, variable), error.what, file, places)
                told.next = error.next
                found.append(told)
    return sorted(found, key=lambda each: each.at or (0, 0))


def remarks(inventory: Inventory) -> list[str]:
    """What is allowed, and yet seldom meant."""
    several = len(inventory.hosts) > 1 and not inventory.traits.chooses_hosts
    told = []
    for number, host in enumerate(inventory.hosts):
        for kind in sorted({gpu.kind for gpu in host.gpus} - set(hardware.names())):
            told.append(
                f"host {host.name}: no numbers of GPU {kind} ship: nothing is predicted (overspan catalog gpus)"
            )
        if several and inventory.device == "cuda" and host.fabric is None:
            told.append(f"host {host.name}: no fabric: NCCL chooses the interface by itself")
        if several and number and host.ssh is None and not inventory.traits.here:
            told.append(f"host {host.name}: no ssh: what is started there runs on this machine")
    return told


def _variables(data: dict[str, Any]) -> Iterator[tuple[yamlio.Place, str, Iterable[str]]]:
    """Each place of variables, what it is called, and their names; what has another form is passed over."""
    if isinstance(data.get("env"), dict):
        yield ("env",), "env", map(str, data["env"])
    for index, host in enumerate(data["hosts"] if isinstance(data.get("hosts"), list) else []):
        if not isinstance(host, dict):
            continue
        if isinstance(host.get("env"), dict):
            yield ("hosts", index, "env"), f"env of host {host.get('name')}", map(str, host["env"])
        container = host.get("container")
        options = container.get("options") if isinstance(container, dict) else None
        if isinstance(options, list):
            given = _GIVEN.findall("\n".join(map(str, options)))
            yield ("hosts", index, "container", "options"), f"container.options of host {host.get('name')}", given
