"""Which hosts and GPUs each worker of a topology gets. A layout is a topology with one role."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Host, Inventory
from overspan.schema.layout import Layout
from overspan.schema.plan import Placement
from overspan.schema.recipe import Recipe
from overspan.schema.topology import Role, RoleName, Topology, parse_topology

HEAD = "api"
"""The process of an aggregated worker that holds rank 0 and answers requests."""
WHAT_CAN = "overspan plan MODEL --explain ranks what can; --on INVENTORY asks of other machines"
"""What to do when a layout cannot run."""


class Worker(NamedTuple):
    """One worker: its role, its number within the role, and the ranks and GPUs that it has on each host."""

    role: RoleName
    number: int
    placements: list[Placement]


class Placed(NamedTuple):
    """A topology on machines. A node that holds any rank is reserved whole."""

    topology: Topology
    workers: list[Worker]
    gpus_by_host: dict[str, int]

    @property
    def nodes(self) -> list[str]:
        """The hosts that hold ranks, in their order."""
        return list(self.gpus_by_host)

    @property
    def placements(self) -> list[Placement]:
        """Of every worker, in their order."""
        return [each for worker in self.workers for each in worker.placements]

    @property
    def gpus_used(self) -> int:
        """GPUs that hold a rank; 0 on CPUs."""
        return sum(len(each.gpus) for each in self.placements)

    @property
    def gpus_reserved(self) -> int:
        """GPUs of every node that holds a rank."""
        return sum(self.gpus_by_host.values())

    def of(self, role: RoleName) -> list[Worker]:
        """The workers of one role."""
        return [worker for worker in self.workers if worker.role == role]


def topology_of(recipe: Recipe) -> Topology:
    """The workers that a recipe states: its topology, or one worker of its layout."""
    return parse_topology(recipe.topology) if recipe.topology is not None else aggregated(recipe.layout)


def aggregated(layout: Layout) -> Topology:
    """A layout as a topology: one worker that does prefill and decode."""
    return Topology(roles=[Role(name="aggregated", layout=layout)])


def place(topology: Topology, inventory: Inventory, *, whole_nodes: bool = False) -> Placed:
    """Every worker on its ranks: hosts are filled in order, and a worker spans as few of them as it can.

    The ranks of a worker spread evenly over its hosts, as native multi-node vLLM wants it. Without GPUs nothing fills
    up: workers go to the hosts in turn.

    Args:
        topology: the workers.
        inventory: the machines.
        whole_nodes: refuse workers that leave GPUs of a reserved node idle.

    Raises:
        PlanRefused: more ranks than the machines hold, or ranks that do not spread evenly; with the arithmetic.
    """
    if whole_nodes and (reasons := list(_unfilled(topology, inventory))):
        raise PlanRefused(f"{topology.label} cannot be placed on {inventory.name}:", reasons)
    free = [[gpu.index for gpu in host.gpus] for host in inventory.hosts]
    workers: list[Worker] = []
    for role in topology.roles:
        for number in range(role.workers):
            held = _place_worker(role, number, inventory, free, turn=len(workers))
            if not held:
                reason = _no_room(topology, inventory)
                raise PlanRefused(f"{topology.label} does not fit {inventory.name}:", [reason], next=WHAT_CAN)
            workers.append(Worker(role=role.name, number=number, placements=held))
    used = dict.fromkeys(each.host for worker in workers for each in worker.placements)
    sizes = {host.name: len(host.gpus) for host in inventory.hosts}
    return Placed(topology=topology, workers=workers, gpus_by_host={name: sizes[name] for name in used})


def _place_worker(
    role: Role, number: int, inventory: Inventory, free: list[list[int]], *, turn: int
) -> list[Placement]:
    """One worker's placements, its GPUs taken out of `free`; empty where it finds no room."""
    hosts, found = inventory.hosts, []
    chosen = _filled(role.layout.world_size, _room(role.layout, inventory, free), on_first=role.name == "aggregated")
    for part, index in enumerate(chosen):
        each = role.layout.world_size // len(chosen)
        at = index if inventory.device == "cuda" else (index + turn) % len(hosts)
        gpus, free[at] = free[at][:each], free[at][each:]
        found.append(
            Placement(
                process=_process(role, number, part),
                host=hosts[at].name,
                ranks=list(range(part * each, (part + 1) * each)),
                gpus=gpus if inventory.device == "cuda" else [],
                role=role.name,
                worker=number,
            )
        )
    return found


def hosts_of(layout: Layout, inventory: Inventory) -> list[Host]:
    """The hosts that the ranks of one worker are placed on; empty where they cannot be."""
    room = _room(layout, inventory, [host.gpus for host in inventory.hosts])
    return [inventory.hosts[index] for index in _filled(layout.world_size, room, on_first=True)]


def unplaced(layout: Layout, inventory: Inventory) -> str | None:
    """Why the ranks of one worker cannot be placed; None where they can."""
    return None if hosts_of(layout, inventory) else _no_room(aggregated(layout), inventory)


@functools.lru_cache(maxsize=4096)
def _filled(world: int, room: tuple[int, ...], *, on_first: bool) -> tuple[int, ...]:
    """The fewest hosts that take the same number of ranks each: their indices, first ones first; empty if none do.

    `on_first`: the first host, where a run's endpoint is, must be among them.
    """
    for count in range(1, len(room) + 1):
        roomy = [index for index, free in enumerate(room) if world % count == 0 and free >= world // count]
        if len(roomy) >= count and not (on_first and roomy[0] > 0):
            return tuple(roomy[:count])
    return ()


def _room(layout: Layout, inventory: Inventory, free: Sequence[Sequence[object]]) -> tuple[int, ...]:
    """Ranks that each host takes: one a free GPU; without GPUs an even share of them all."""
    if inventory.device == "cuda":
        return tuple(map(len, free))
    return (-(-layout.world_size // len(inventory.hosts)),) * len(inventory.hosts)


def _process(role: Role, number: int, part: int) -> str:
    """The name of the process of a worker on one of its hosts."""
    if role.name == "aggregated":
        return f"worker{part}" if part else HEAD
    worker = role.name if role.workers == 1 else f"{role.name}{number}"
    return f"{worker}-node{part}" if part else worker


def _no_room(topology: Topology, inventory: Inventory) -> str:
    """The arithmetic of a topology that does not fit."""
    hosts, ranks = inventory.hosts, sum(role.ranks for role in topology.roles)
    if topology.disaggregated:
        asked = " + ".join(
            f"{role.workers} x {role.layout.world_size} ({role.layout.label.upper()})" for role in topology.roles
        )
        held = sum(len(host.gpus) for host in hosts)
        return f"{asked} = {ranks} GPU{'s' * (ranks > 1)}; {inventory.name} has {held} on {len(hosts)} nodes"
    layout = topology.answering.layout
    label, what = layout.label, "GPUs" if inventory.device == "cuda" else "ranks"
    slots = _room(layout, inventory, [host.gpus for host in hosts])
    room = " + ".join(f"{each} on {host.name}" for each, host in zip(slots, hosts, strict=True))
    if ranks > sum(slots):
        return f"{label} needs {ranks} {what}, one a rank; {inventory.name} has {room} = {sum(slots)}"
    return f"{label} has {ranks} ranks, which do not spread evenly over hosts with {room} {what}"


def _unfilled(topology: Topology, inventory: Inventory) -> Iterator[str]:
    """Nodes that would be reserved and not filled by the workers of a role, with the arithmetic; none on CPUs."""
    each = min(len(host.gpus) for host in inventory.hosts) if inventory.device == "cuda" else 0
    for role in topology.roles:
        layout, world = role.layout.label.upper(), role.layout.world_size
        if role.workers == 0:
            reserved = f"{role.nodes} nodes and no workers" if role.nodes else "no workers"
            yield f"{role.name} has {reserved}: nobody would answer a {role.name} request"
        elif role.nodes is not None and each and role.ranks < (held := role.nodes * each):
            filled = f"{role.ranks} ranks fill {-(-role.ranks // each)} of {role.nodes} nodes of {each}"
            yield f"{role.name} {layout} on {held} GPUs: {role.workers} x {world} = {filled}"
        elif role.nodes is not None and each and role.ranks > (held := role.nodes * each):
            yield f"{role.name} {layout} needs {role.ranks} GPUs; {role.nodes} nodes of {each} are {held}"
        if each and each % world and world % each:
            left = -world % each
            yield f"{role.name} {layout} on nodes of {each} GPUs: {world} ranks leave {left} of {world + left} idle"
