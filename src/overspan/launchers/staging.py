"""What every launch needs on this machine first: the model, and the engine with its patches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from overspan.engines import patches, registry
from overspan.launchers.base import Launcher
from overspan.provision import environments, models, plugin
from overspan.provision.weights import without_symlinks
from overspan.schema.errors import InputError
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.store.locks import Say
from overspan.transport.base import Transport

_PLUGINS = "VLLM_PLUGINS"
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
    model = models.prepare(recipe, python=_python_here(plan), say=say)
    # Links of a cache lead out of the folder that a container sees.
    path = without_symlinks(model.path) if plan.inventory.traits.containers == "always" else model.path
    return plan.with_(model_path=str(path), model_digest=model.digest), model


def _python_here(plan: Plan) -> Path | None:
    """The Python of the plan's engine, where that is on this machine."""
    folder = plan.engine.environment if plan.engine.image is None else None
    return environments.python_in(Path(folder)) if folder else None


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


WITHOUT_PLUGIN = (
    "known faults of its version are not mended, weights cannot be drawn, and if guardian and supervisor are killed at "
    "once its engine core may stay: `overspan stop` ends it"
)


def with_plugin(
    plan: Plan, specs: Sequence[ProcessSpec], launcher: Launcher, say: Say
) -> tuple[list[ProcessSpec], str | None]:
    """The processes with our vLLM plugin where the engine does not hold it, and what a person should know of that.

    So what was measured with drawn weights is what the real model runs with.
    """
    ranks = [spec for spec in specs if spec.ranks]
    if not registry.find(plan.engine.name).takes_plugin or not ranks:
        return list(specs), None
    left_out = [spec.name for spec in ranks if _leaves_out(spec, launcher)]
    told = f"VLLM_PLUGINS leaves Overspan's vLLM plugin out of {', '.join(left_out)}: {WITHOUT_PLUGIN}"
    if plan.engine.environment and plan.engine.image is None and plugin.is_in(Path(plan.engine.environment)):
        return list(specs), told if left_out else None
    found = launcher.with_packages(plugin.apart(), ranks, say)
    if isinstance(found, str):
        return list(specs), f"this vLLM runs without Overspan's plugin, since {found}: {WITHOUT_PLUGIN}"
    changed = {spec.name: spec for spec in found}
    added = "Overspan's vLLM plugin comes to this vLLM by PYTHONPATH; nothing of it is changed on disk"
    return [changed.get(spec.name, spec) for spec in specs], told if left_out else added


def _leaves_out(spec: ProcessSpec, launcher: Launcher) -> bool:
    """Whether the variable by which vLLM takes some plugins alone leaves ours out. Source: vllm/plugins/__init__.py."""
    inherited = os.environ.get(_PLUGINS) if launcher.traits.here else None
    asked = spec.env.get(_PLUGINS, inherited)
    return asked is not None and "overspan" not in asked.split(",")
