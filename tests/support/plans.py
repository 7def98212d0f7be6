"""A plan with one process a host, and the folder of its run, for tests of launchers alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import Endpoint, EngineChoice, Placement, Plan
from overspan.schema.recipe import Recipe
from overspan.store.run_folder import RunFolder

RUN = "trial-20261122-160000-0a1b"
HERE = Host(name="here", memory_bytes=1)


def plan_on(hosts: Sequence[Host] = (HERE,), **inventory: Any) -> Plan:
    """Process `rank<n>` on the nth host."""
    recipe = Recipe(name="trial", model="none/none")
    return Plan(
        recipe=recipe,
        inventory=Inventory(hosts=list(hosts), **inventory),
        layout=recipe.layout,
        engine=EngineChoice(name="vllm", version="0"),
        endpoint=Endpoint(host="127.0.0.1", port=8000, model="m"),
        placements=[Placement(process=f"rank{n}", host=host.name, ranks=[n]) for n, host in enumerate(hosts)],
        overspan_version="0",
    )


def run_in(folder: Path, run: str = RUN) -> RunFolder:
    """A run's folder that holds nothing."""
    (folder / run / "logs").mkdir(parents=True, exist_ok=True)
    return RunFolder(folder / run)
