"""The algebra of topologies: which GPUs each worker gets, what each role is given, and why a topology cannot run."""

from collections.abc import Iterator

from overspan.planner import demands, refuse
from overspan.planner.memory import tokens_of
from overspan.planner.placement import place
from overspan.schema.base import Frozen
from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Host, Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Placement
from overspan.schema.prediction import Demand
from overspan.schema.recipe import Recipe, RoleSettings
from overspan.schema.topology import Role, RoleName, Topology, parse_topology


class Worker(Frozen):
    """One worker: its role, its number within the role, and the ranks and GPUs that it has on each host."""

    role: RoleName
    number: int
    placements: list[Placement]


class Placed(Frozen):
    """A topology on machines. A node that holds any rank is reserved whole."""

    topology: Topology
    workers: list[Worker]
    gpus_by_host: dict[str, int]

    @property
    def nodes(self) -> list[str]:
        """The hosts that hold ranks, in their order."""
        return list(self.gpus_by_host)

    @property
    def gpus_used(self) -> int:
        """GPUs that hold a rank; 0 on CPUs."""
        return sum(len(each.gpus) for worker in self.workers for each in worker.placements)

    @property
    def gpus_reserved(self) -> int:
        """GPUs of every node that holds a rank."""
        return sum(self.gpus_by_host.values())

    def of(self, role: RoleName) -> list[Worker]:
        """The workers of one role."""
        return [worker for worker in self.workers if worker.role == role]


def topology_of(recipe: Recipe) -> Topology:
    """The workers that a recipe states: its topology, or one worker of its layout."""
    if recipe.topology is not None:
        return parse_topology(recipe.topology)
    return Topology(roles=[Role(name="aggregated", layout=recipe.layout)])


def place_topology(topology: Topology, inventory: Inventory) -> Placed:
    """Every worker on its GPUs: hosts are filled in order, and a worker spans as few of them as it can.

    Raises:
        PlanRefused: it does not fit, or would leave GPUs of a node idle; every reason with its arithmetic.
    """
    reasons = [*_stated(topology, inventory), *idle(topology, inventory)]
    if reasons:
        raise PlanRefused(f"{topology.label} cannot be placed on {inventory.name}:", reasons)
    free = {host.name: [gpu.index for gpu in host.gpus] for host in inventory.hosts}
    workers: list[Worker] = []
    for role in topology.roles:
        for number in range(role.workers):
            placements = _place_worker(role, number, _turned(inventory, len(workers)), free)
            if placements is None:
                raise PlanRefused(f"{topology.label} does not fit {inventory.name}:", [_too_many(topology, inventory)])
            workers.append(Worker(role=role.name, number=number, placements=placements))
    used = dict.fromkeys(each.host for worker in workers for each in worker.placements)
    sizes = {host.name: len(host.gpus) for host in inventory.hosts}
    return Placed(topology=topology, workers=workers, gpus_by_host={name: sizes[name] for name in used})


def _turned(inventory: Inventory, by: int) -> Inventory:
    """Without GPUs nothing fills up: workers go to the hosts in turn."""
    if inventory.device != "cpu":
        return inventory
    hosts = inventory.hosts
    first = by % len(hosts)
    return inventory.with_(hosts=[*hosts[first:], *hosts[:first]])


def _place_worker(role: Role, number: int, inventory: Inventory, free: dict[str, list[int]]) -> list[Placement] | None:
    """The next worker's placements, its GPUs taken out of `free`; None where it finds no room."""
    process = role.name if role.workers == 1 else f"{role.name}{number}"
    if inventory.device == "cpu":
        held = place(role.layout, inventory)
        return [each.with_(process=_part(process, index)) for index, each in enumerate(held)]
    world = role.layout.world_size
    for count in range(1, len(inventory.hosts) + 1):
        roomy = [host for host in inventory.hosts if world % count == 0 and len(free[host.name]) >= world // count]
        if len(roomy) >= count:
            return [_take(process, index, host, world // count, free) for index, host in enumerate(roomy[:count])]
    return None


def _part(process: str, index: int) -> str:
    return process if index == 0 else f"{process}-node{index}"


def _take(process: str, index: int, host: Host, each: int, free: dict[str, list[int]]) -> Placement:
    gpus, free[host.name] = free[host.name][:each], free[host.name][each:]
    ranks = list(range(index * each, (index + 1) * each))
    return Placement(process=_part(process, index), host=host.name, ranks=ranks, gpus=gpus)


def _too_many(topology: Topology, inventory: Inventory) -> str:
    asked = " + ".join(
        f"{role.workers} x {role.layout.world_size} ({role.layout.label.upper()})" for role in topology.roles
    )
    ranks = sum(role.ranks for role in topology.roles)
    held = sum(len(host.gpus) for host in inventory.hosts)
    return f"{asked} = {ranks} GPUs; {inventory.name} has {held} on {len(inventory.hosts)} nodes"


def _node_gpus(inventory: Inventory) -> int:
    """GPUs of a node; of the smallest where they differ; 0 on CPUs."""
    return min(len(host.gpus) for host in inventory.hosts) if inventory.device == "cuda" else 0


def _stated(topology: Topology, inventory: Inventory) -> Iterator[str]:
    """Nodes that somebody reserved, against what the workers fill."""
    each = _node_gpus(inventory)
    for role in topology.roles:
        layout = role.layout.label.upper()
        if role.workers == 0:
            reserved = f"{role.nodes} nodes and no workers" if role.nodes else "no workers"
            yield f"{role.name} has {reserved}: nobody would answer a {role.name} request"
        elif role.nodes is not None and each:
            needed = -(-role.ranks // each)
            if role.ranks != role.nodes * each:
                yield (
                    f"{role.name} {layout} on {role.nodes * each} GPUs: {role.workers} x {role.layout.world_size} = "
                    f"{role.ranks} ranks fill {needed} of {role.nodes} nodes of {each}"
                    if role.ranks < role.nodes * each
                    else f"{role.name} {layout} needs {role.ranks} GPUs; {role.nodes} nodes of {each} are "
                    f"{role.nodes * each}"
                )


def idle(topology: Topology, inventory: Inventory) -> Iterator[str]:
    """Workers whose ranks do not fill nodes evenly, with the arithmetic."""
    each = _node_gpus(inventory)
    for role in topology.roles:
        world = role.layout.world_size
        if each and each % world and world % each:
            left = -world % each
            yield (
                f"{role.name} {role.layout.label.upper()} on nodes of {each} GPUs: {world} ranks leave {left} of "
                f"{world + left} idle"
            )


def rank_limits(topology: Topology, recipe: Recipe, users: int) -> dict[str, int]:
    """Sequences and graphs for a rank of the decode workers, where the recipe does not say: sized for its share.

    In data parallelism every rank schedules its own requests (vLLM's max_num_seqs is per DP rank), so a rank needs
    room for the users over all of them, not for all users. Nothing where prefill and decode are not apart.
    """
    if not topology.disaggregated:
        return {}
    role = topology.answering
    share = max(1, -(-users // max(1, role.workers * role.layout.dp)))
    args = recipe.for_role(role).engine_args
    whole = 1 << (share - 1).bit_length()
    given = args.get("max_num_seqs")
    sequences = given if isinstance(given, int) else whole
    graphs = min(sequences, whole)
    derived = {"max_num_seqs": sequences, "max_cudagraph_capture_size": graphs}
    return {name: value for name, value in derived.items() if name not in args}


def sized(recipe: Recipe, topology: Topology, users: int) -> Recipe:
    """The recipe with the limits of a rank of the decode workers for so many users over all of them."""
    limits = rank_limits(topology, recipe, users)
    if not limits:
        return recipe
    name = topology.answering.name
    held = recipe.roles.get(name, RoleSettings())
    own = held.with_(engine_args={**held.engine_args, **limits})
    return recipe.with_(roles={**recipe.roles, name: own})


def topology_refusals(model: ModelSpec | None, recipe: Recipe, placed: Placed, inventory: Inventory) -> list[str]:
    """Every reason why the workers of a placed topology cannot run; an empty list when none is known.

    Args:
        model: its sizes; None where they are not at hand.
        recipe: with its `roles`.
        placed: the workers on their hosts.
        inventory: the machines.
    """
    reasons = []
    for role in placed.topology.roles:
        own = recipe.for_role(role)
        names = {each.host for each in placed.of(role.name)[0].placements}
        hosts = [host for host in inventory.hosts if host.name in names]
        there = inventory.with_(hosts=hosts)
        found = refuse.refusals(model, role.layout, there, own)
        found += demands.unmet(model, role.layout, own.engine_args) if model else []
        prefix = f"{role.name}: " if placed.topology.disaggregated else ""
        reasons += [f"{prefix}{reason}" for reason in found]
    return reasons


def length_refusals(model: ModelSpec | None, recipe: Recipe, topology: Topology, request_tokens: int) -> list[str]:
    """Roles whose context is shorter than a request's input and output together."""
    reasons = []
    for role in topology.roles:
        given = recipe.for_role(role).engine_args.get("max_model_len")
        longest = tokens_of(given, (model.max_context if model else None) or 0)
        if 0 < longest < request_tokens:
            prefix = f"{role.name}: " if topology.disaggregated else ""
            reasons.append(
                f"{prefix}max_model_len {longest} is shorter than a request of {request_tokens} tokens (isl + osl)"
            )
    return reasons


def demand_refusals(model: ModelSpec | None, recipe: Recipe, demand: Demand | None) -> list[str]:
    """The same for the lengths that somebody stated of a load; a load's usual lengths refuse nothing."""
    stated = demand.model_fields_set & {"isl", "osl"} if demand else set()
    tokens = sum(int(getattr(demand, name)) for name in stated)
    return length_refusals(model, recipe, topology_of(recipe), tokens)
