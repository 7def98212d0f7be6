"""What the workers of a role are given beside the recipe, and why those of a placed topology cannot run."""

from collections.abc import Iterator

from overspan.planner import refuse, rules
from overspan.planner.memory import tokens_of
from overspan.planner.placement import Placed, topology_of
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.recipe import Recipe, RoleSettings
from overspan.schema.topology import Role, Topology
from overspan.schema.workload import Demand


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
    derived = {"max_num_seqs": sequences, "max_cudagraph_capture_size": min(sequences, whole)}
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


def role_refusals(model: ModelSpec | None, recipe: Recipe, placed: Placed, inventory: Inventory) -> list[str]:
    """Every reason why the workers of a placed topology cannot run; an empty list when none is known.

    Args:
        model: its sizes; None where they are not at hand.
        recipe: with its `roles`.
        placed: the workers on their hosts.
        inventory: the machines.
    """
    reasons = []
    for role, own, prefix in _roles(placed.topology, recipe):
        names = {each.host for each in placed.of(role.name)[0].placements}
        there = inventory.with_(hosts=[host for host in inventory.hosts if host.name in names])
        found = refuse.refusals(model, role.layout, there, own)
        found += rules.broken_arguments(model, role.layout, own.engine_args) if model else []
        reasons += [f"{prefix}{reason}" for reason in found]
    return reasons


def length_refusals(model: ModelSpec | None, recipe: Recipe, topology: Topology, request_tokens: int) -> list[str]:
    """Roles whose context is shorter than a request's input and output together."""
    reasons = []
    for _, own, prefix in _roles(topology, recipe):
        longest = tokens_of(own.engine_args.get("max_model_len"), (model.max_context if model else None) or 0)
        if 0 < longest < request_tokens:
            short = f"max_model_len {longest} is shorter than a request of {request_tokens} tokens (isl + osl)"
            reasons.append(prefix + short)
    return reasons


def demand_refusals(model: ModelSpec | None, recipe: Recipe, demand: Demand | None) -> list[str]:
    """The same for the lengths that somebody stated of a load; a load's usual lengths refuse nothing."""
    stated = demand.model_fields_set & {"isl", "osl"} if demand else set()
    tokens = sum(int(getattr(demand, name)) for name in stated)
    return length_refusals(model, recipe, topology_of(recipe), tokens) if tokens else []


def _roles(topology: Topology, recipe: Recipe) -> Iterator[tuple[Role, Recipe, str]]:
    """Each role, the recipe as its workers run it, and what a reason begins with that is this role's alone."""
    for role in topology.roles:
        yield role, recipe.for_role(role), f"{role.name}: " if topology.disaggregated else ""
