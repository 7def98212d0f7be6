"""What every launch needs on this machine first: the model, and the engine with its patches."""

from __future__ import annotations

from pathlib import Path

from overspan.engines import patches
from overspan.provision import models
from overspan.provision.weights import without_symlinks
from overspan.schema.errors import InputError
from overspan.schema.plan import Plan
from overspan.store.locks import Say
from overspan.transport.base import Transport

_ENVIRONMENT = "name it in the inventory: engine_environment"


def stage_model(plan: Plan, say: Say) -> tuple[Plan, models.PreparedModel | None]:
    """The plan with the model's path on every host.

    Where the inventory says where the model is on its hosts, it is taken from there and nothing is fetched; the head's
    files are brought to the hosts that lack them. Otherwise it is made ready on this machine first.
    """
    known = plan.inventory.models.get(plan.recipe.model)
    if known is not None and not Path(known).is_dir():
        if not known.startswith("/"):
            raise InputError(
                f"models of inventory {plan.inventory.name}: {known!r} is not a folder here, and not an absolute path",
                next=f"name the folder as the hosts have it, like /srv/models/{Path(known).name}",
            )
        return plan.with_(model_path=known), None
    recipe = plan.recipe.with_(model=known, package=None) if known else plan.recipe
    model = models.prepare(recipe, say=say)
    # Links of a cache lead out of the folder that a container sees.
    path = without_symlinks(model.path) if plan.inventory.traits.containers == "always" else model.path
    return plan.with_(model_path=str(path), model_digest=model.digest), model


def apply_patches(plan: Plan, place: Transport, say: Say) -> None:
    """Change the engine's files on a machine as the recipe asks, where the engine is an environment there.

    Raises:
        InputError: an anchor is missing or ambiguous; nothing was changed.
    """
    if not plan.recipe.patches or plan.engine.image is not None:
        return  # a container has its own files, and is patched as it starts
    if plan.engine.environment is None:
        raise InputError("the recipe has patches, and the engine's environment is not known", next=_ENVIRONMENT)
    done = place.run(patches.apply(f"{plan.engine.environment}/bin/python", plan.recipe.patches), timeout_s=60.0)
    for line in done.stderr.splitlines():
        say(line)
    if done.code != 0:
        said = done.stderr.strip().splitlines()
        raise InputError("the engine cannot be patched; nothing was changed", quote=said[-1] if said else None)
