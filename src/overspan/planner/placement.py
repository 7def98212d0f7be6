"""Which ranks run on which host: filled in order, the same number on each, as native multi-node vLLM wants it."""

from __future__ import annotations

from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Host, Inventory
from overspan.schema.layout import Layout
from overspan.schema.plan import Placement

HEAD = "api"
"""The process that holds rank 0 and answers requests."""
WHAT_CAN = "overspan predict MODEL --on INVENTORY ranks what can"
"""What to do when the layout cannot run."""


def place(layout: Layout, inventory: Inventory) -> list[Placement]:
    """One placement a host, with its ranks and, on GPUs, their indices.

    Raises:
        PlanRefused: more ranks than the machines hold, or ranks that do not spread evenly; with the arithmetic.
    """
    count = hosts_needed(layout, inventory)
    each = layout.world_size // count
    return [_placement(index, host, each, inventory) for index, host in enumerate(inventory.hosts[:count])]


def hosts_needed(layout: Layout, inventory: Inventory) -> int:
    """How many of the hosts, from the first on, a layout fills.

    Raises:
        PlanRefused: see `place`.
    """
    world = layout.world_size
    hosts = inventory.hosts
    slots = [_slots(host, inventory, world) for host in hosts]
    for count in range(1, len(hosts) + 1):
        if world % count == 0 and all(world // count <= each for each in slots[:count]):
            return count
    what = "GPUs" if inventory.device == "cuda" else "ranks"
    room = " + ".join(f"{each} on {host.name}" for each, host in zip(slots, hosts, strict=True))
    if world > sum(slots):
        reason = f"{layout.label} needs {world} {what}, one a rank; {inventory.name} has {room} = {sum(slots)}"
    else:
        reason = f"{layout.label} has {world} ranks, which do not spread evenly over hosts with {room} {what}"
    raise PlanRefused("the layout does not fit the machines:", [reason], next=WHAT_CAN)


def _slots(host: Host, inventory: Inventory, world: int) -> int:
    """How many ranks a host takes: one a GPU; without GPUs all of them alone, or an even share of several."""
    if inventory.device == "cuda":
        return len(host.gpus)
    return -(-world // len(inventory.hosts))


def _placement(index: int, host: Host, each: int, inventory: Inventory) -> Placement:
    return Placement(
        process=HEAD if index == 0 else f"worker{index}",
        host=host.name,
        ranks=list(range(index * each, (index + 1) * each)),
        gpus=[gpu.index for gpu in host.gpus[:each]] if inventory.device == "cuda" else [],
    )
