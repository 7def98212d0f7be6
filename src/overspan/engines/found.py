"""Which vLLM runs on this machine. The first of these that is there and is for the machine's device:

1. the environment that the inventory names (`engine_environment`);
2. the one that `overspan engine use PATH` named;
3. where the machine has GPUs: that of `vllm` on the PATH;
4. the one that `overspan engine install` made: `cuda` where the machine has GPUs, else `cpu`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from overspan.schema.errors import EngineMissing, InputError
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice
from overspan.schema.recipe import Recipe

if TYPE_CHECKING:
    from overspan.provision.engines import EngineEnv


class Sought(NamedTuple):
    """What an engine asks for: the environment `overspan engine install` makes for it, and packages beside vLLM."""

    name: str
    lock: str
    needs: tuple[str, ...]
    usual_version: str


def choose(sought: Sought, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
    """The engine of a recipe on this machine; where there is none, and none must be there, an assumed one.

    Raises:
        EngineMissing: it must be there and is not.
        InputError: a lock asks for another version, or the vLLM that was named once is gone.
    """
    notes: list[str] = []
    try:
        return (
            _named(sought, inventory)
            or _own(sought, inventory, notes)
            or _on_path(sought, inventory, notes)
            or _installed(sought, recipe, inventory, notes)
        )
    except EngineMissing as missing:
        if to_start:
            raise
        environment = inventory.engine_environment
        return EngineChoice(
            name=sought.name, version=sought.usual_version, environment=environment, assumed=missing.what, notes=notes
        )


def _named(sought: Sought, inventory: Inventory) -> EngineChoice | None:
    from overspan.provision import environments

    folder = inventory.engine_environment
    if folder is None:
        return None
    version = environments.version_in(Path(folder))
    if version is None:
        instead = "correct engine_environment in the inventory, or leave it out"
        raise EngineMissing(f"engine_environment of inventory {inventory.name}: no vLLM is in {folder}", next=instead)
    return EngineChoice(name=sought.name, version=version, environment=folder)


def _own(sought: Sought, inventory: Inventory, notes: list[str]) -> EngineChoice | None:
    from overspan.provision import own

    kept = own.find()
    if kept is None:
        return None
    if not kept.is_there:
        what = f"`overspan engine use` named {kept.path}, and no vLLM is there any more"
        raise EngineMissing(
            what, next="overspan engine use PATH names another; overspan engine use --none takes it back"
        )
    if kept.device not in (None, inventory.device):
        notes.append(f"the vLLM that was named, {kept.path}, is built for {kept.device} and is not used here")
        return None
    if _lacks(sought, kept.path, notes):
        return None
    said = f"the vLLM in {kept.path}, as `overspan engine use` named it"
    return EngineChoice(name=sought.name, version=kept.version, environment=str(kept.path), notes=[*notes, said])


def _on_path(sought: Sought, inventory: Inventory, notes: list[str]) -> EngineChoice | None:
    from overspan.provision import environments

    folder = environments.on_path() if inventory.device == "cuda" else None
    version = environments.version_in(folder) if folder else None
    if folder is None or version is None or _lacks(sought, folder, notes):
        return None
    said = f"the vLLM in {folder}, which is on the PATH"
    return EngineChoice(name=sought.name, version=version, environment=str(folder), notes=[*notes, said])


def _lacks(sought: Sought, folder: Path, notes: list[str]) -> bool:
    """Whether an environment is without a package that the engine needs beside vLLM."""
    from overspan.provision import environments

    held = environments.packages_in(folder)
    lacking = [name for name in sought.needs if held and name not in held]
    if lacking:
        notes.append(f"{folder} has no {' and no '.join(lacking)}, which engine {sought.name} needs")
    return bool(lacking)


def _installed(sought: Sought, recipe: Recipe, inventory: Inventory, notes: list[str]) -> EngineChoice:
    found = _environment(sought, inventory, notes)
    locked = recipe.locked
    if locked and locked.engine_version != found.version:
        what = f"the lock of run {locked.run} was made with engine {locked.engine_version}"
        instead = "install that engine, or start from the recipe in place of the lock"
        raise InputError(f"{what}; installed is {found.version}", next=instead)
    return EngineChoice(name=sought.name, version=found.version, environment=str(found.path), notes=notes)


def _environment(sought: Sought, inventory: Inventory, notes: list[str]) -> EngineEnv:
    """What `overspan engine install` made for the machine's device."""
    from overspan.provision import engines, fitting, locked

    name = sought.lock.format(device=inventory.device)
    if inventory.device == "cpu":
        return engines.find(name)
    builds = [lock for lock in locked.builds(name) if lock.gpus] if name in locked.known() else []
    for lock in builds:
        try:
            return engines.find(lock.name)
        except EngineMissing:
            continue
    beside = f" with {' and '.join(sought.needs)}" if sought.needs else ""
    what = f"this machine has GPUs, and no vLLM{beside} on the PATH, named or installed"
    own = "overspan engine use PATH, where a vLLM is already"
    if builds:
        try:
            found = fitting.fit(name, [gpu for host in inventory.hosts for gpu in host.gpus])
        except EngineMissing as missing:
            raise EngineMissing("; ".join([what, *notes, missing.what]), next=missing.next) from None
        own = f"overspan engine install {name} ({found.lock.description}); or {own}"
    raise EngineMissing("; ".join([what, *notes]), next=f"{own}; or start containers: --on FILE")
