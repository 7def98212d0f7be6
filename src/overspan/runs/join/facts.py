"""What must be the same on every host of a run, where each host makes its own plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from overspan import __version__
from overspan.launchers.base import hosts_of
from overspan.provision import build
from overspan.provision.images import find_image
from overspan.schema.plan import Plan
from overspan.transport.copying import ReachableHost
from overspan.transport.reach import reach

FILE: Final = "facts.json"
"""Where a run's folder has them, from its staging on; the supervisor reads them there."""

_OF_THE_SITE: Final = {"ssh", "description", "source", "why", "warnings", "unreachable", "disk_free_bytes", "unknown"}
"""Fields of an inventory that may differ between the hosts' own files."""

_ENGINE: Final = ("vllm", "ray", "torch")
"""Packages whose versions must be equal on every host."""


def of(plan: Plan) -> dict[str, str]:
    """The facts of a staged plan by name: recipe, inventory, versions, model files, and the image's id on this host."""
    inventory = plan.inventory.model_dump(mode="json", exclude=_OF_THE_SITE)
    inventory["hosts"] = {
        host["name"]: {name: value for name, value in host.items() if name not in _OF_THE_SITE}
        for host in inventory["hosts"]
    }
    facts = {
        "overspan": __version__,
        "engine": {**plan.engine.model_dump(mode="json", exclude={"environment"}), **_engine(plan)},
        "model files": plan.model_digest,
        "recipe": plan.recipe.model_dump(mode="json", exclude={"locked"}),
        "inventory": inventory,
    }
    return dict(_flat("", facts))


def _engine(plan: Plan) -> dict[str, str | None]:
    """What this host alone can tell of its engine."""
    if plan.engine.image is not None:
        (host,) = hosts_of(plan)
        found = find_image(ReachableHost(host, reach(host)), plan.engine.image)
        return {"image id": found.id if found else None}
    if plan.engine.environment is None:
        return {}
    held = build.distributions(Path(plan.engine.environment))
    return {name: held[name][0] for name in _ENGINE if name in held}


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), item)
    elif value is not None:
        yield name, str(value)


def differences(head: Mapping[str, str], host: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """What is not the same on both, as (name, the head's, the host's), in the head's order."""
    names = dict.fromkeys([*head, *host])
    return [
        (name, head.get(name, "none"), host.get(name, "none")) for name in names if head.get(name) != host.get(name)
    ]
