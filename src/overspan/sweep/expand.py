"""From a sweep to its deployments and points: placed, checked, estimated. Pure: nothing is started."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from overspan import __version__
from overspan.catalog import models
from overspan.catalog.flags import to_argv
from overspan.engines import dynamo, vllm
from overspan.planner.topology import (
    Placed,
    length_refusals,
    place_topology,
    sized,
    topology_refusals,
)
from overspan.schema.errors import ModelUnavailable, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.point import Command, Point, PointRole
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.sweep import Entry, Load, Scenario, Sweep
from overspan.schema.topology import Role, RoleName, Topology
from overspan.sweep.estimate import estimate
from overspan.sweep.only import parse_filter
from overspan.sweep.read import base_recipe, entry_load, entry_recipe

# Not what a deployment does: prose, names, and where it answers.
_UNHASHED = frozenset(
    {"name", "description", "source", "variants", "warnings", "locked", "host", "port", "api_key"}
    | {"restart", "ready_timeout_s", "drain_timeout_s", "layout", "requires"}
)


@dataclass(frozen=True)
class Tools:
    """What the rooms above lend: which engine runs a recipe, and the processes of a plan."""

    engine_of: Callable[[Recipe, Inventory], EngineChoice]
    processes_of: Callable[[Plan], list[ProcessSpec]]


@dataclass
class Deployment:
    """One recipe in one topology, started once for all its points."""

    id: str
    topology: Topology
    recipe: Recipe
    placed: Placed
    roles: dict[RoleName, PointRole]
    processes: list[ProcessSpec]
    commands: list[Command]
    engine: EngineChoice
    key: str
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Matrix:
    """A whole sweep on machines."""

    sweep: Sweep
    inventory: Inventory
    deployments: list[Deployment]

    @property
    def points(self) -> list[Point]:
        """Every point, deployment by deployment."""
        return [point for deployment in self.deployments for point in deployment.points]


@dataclass(frozen=True)
class _Case:
    entry: Entry
    scenario: str
    lengths: Scenario
    load: Load
    recipe: Recipe

    @property
    def key(self) -> str:
        return _digest({"recipe": _essence(self.recipe), "topology": self.entry.topology.label})


def expand(sweep: Sweep, inventory: Inventory, tools: Tools, only: str | None = None) -> Matrix:
    """Every point of a sweep on machines.

    Args:
        only: a filter; entries that it leaves out altogether may be such as cannot run, and have no points then.

    Raises:
        InputError: the sweep or the filter is wrong.
        PlanRefused: points that cannot run; every one with its reasons.
    """
    base = base_recipe(sweep)
    model = _sizes(base)
    deployments: dict[str, Deployment] = {}
    reasons: list[str] = []
    wanted = parse_filter(only) if only is not None else None
    for case in _cases(sweep, base):
        try:
            _lengths_fit(case, model)
            deployment = deployments.get(case.key) or _deploy(case, sweep, inventory, model, tools)
            points = [
                _point(case, users, deployment, sweep=sweep, inventory=inventory, model=model)
                for users in case.entry.users
            ]
            _within(sweep, points)
        except PlanRefused as refused:
            if wanted is None or any(wanted.may_take(named) for named in _named(case, sweep)):
                reasons += [f"{case.scenario}/{case.entry.slug}: {reason}" for reason in refused.reasons]
            continue
        deployments[case.key] = deployment
        deployment.points += points
    if reasons:
        raise PlanRefused(
            f"sweep {sweep.name} cannot run on {inventory.name}:", list(dict.fromkeys(reasons)),
            next="change these entries, or choose others with --only",
        )  # fmt: skip
    return Matrix(sweep, inventory, _distinct(list(deployments.values())))


def _cases(sweep: Sweep, base: Recipe) -> Iterator[_Case]:
    for entry in sweep.points:
        load = entry_load(sweep, entry)
        for name, lengths in sweep.scenarios.items():
            if entry.scenarios is None or name in entry.scenarios:
                # By the most users of the whole entry, whatever runs of it today.
                recipe = sized(entry_recipe(base, sweep, entry, lengths), entry.topology, max(entry.users))
                yield _Case(entry, name, lengths, load, recipe)


def _sizes(recipe: Recipe) -> ModelSpec | None:
    try:
        return models.lookup(recipe.model)
    except ModelUnavailable:
        return None


def _deploy(case: _Case, sweep: Sweep, inventory: Inventory, model: ModelSpec | None, tools: Tools) -> Deployment:
    topology = _with_nodes(case.entry)
    placed = place_topology(topology, inventory)
    reasons = topology_refusals(model, case.recipe, placed, inventory)
    if reasons:
        raise PlanRefused(f"{topology.label} cannot run:", reasons)
    engine = tools.engine_of(case.recipe, inventory)
    plans = {role.name: _role_plan(case.recipe, role, placed, inventory, engine) for role in topology.roles}
    roles = {role.name: _role(role, plans[role.name], placed, inventory) for role in topology.roles}
    processes = tools.processes_of(_whole(next(iter(plans.values())), case.recipe, topology, placed))
    return Deployment(
        id=case.entry.slug,
        topology=topology,
        recipe=case.recipe,
        placed=placed,
        roles=roles,
        processes=processes,
        commands=[Command(process=spec.name, host=spec.host, command=shlex.join(spec.words)) for spec in processes],
        engine=engine,
        key=case.key,
    )


def _with_nodes(entry: Entry) -> Topology:
    roles = [role.with_(nodes=entry.nodes.get(role.name)) for role in entry.topology.roles]
    return Topology(roles=roles)


def _role_plan(recipe: Recipe, role: Role, placed: Placed, inventory: Inventory, engine: EngineChoice) -> Plan:
    """A plan of one role's workers, as the engines' room takes it."""
    own = recipe.for_role(role)
    used = [host for host in inventory.hosts if host.name in placed.gpus_by_host]
    return Plan(
        recipe=own,
        inventory=inventory.with_(hosts=used),
        layout=role.layout,
        engine=engine,
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=[each for worker in placed.workers for each in worker.placements],
        model_path=inventory.models.get(recipe.model),
        overspan_version=__version__,
    )


def _role(role: Role, plan: Plan, placed: Placed, inventory: Inventory) -> PointRole:
    args = vllm.serve_args(plan)
    if placed.topology.disaggregated:
        args = {**args, "kv_transfer_config": dynamo.kv_transfer(args.get("kv_transfer_config"))}
    held = [each for worker in placed.of(role.name) for each in worker.placements]
    return PointRole(
        workers=role.workers,
        layout=role.layout.label.upper(),
        ranks=role.ranks,
        gpus=sum(len(each.gpus) for each in held),
        nodes=list(dict.fromkeys(each.host for each in held)),
        engine_args=plan.recipe.engine_args,
        env={**inventory.env, **plan.recipe.env},
        flags=to_argv(args),
    )


def _whole(plan: Plan, recipe: Recipe, topology: Topology, placed: Placed) -> Plan:
    """The plan of all roles together, as `up` will make it."""
    if not topology.disaggregated:
        return plan
    placements = [
        each.with_(role=worker.role, worker=worker.number) for worker in placed.workers for each in worker.placements
    ]
    changes = {
        "recipe": recipe.with_(topology=topology.label),
        "layout": topology.answering.layout,
        "placements": placements,
    }
    return plan.with_(**changes)


def _point(
    case: _Case, users: int, deployment: Deployment, *, sweep: Sweep, inventory: Inventory, model: ModelSpec | None
) -> Point:
    lengths, load, placed, recipe = case.lengths, case.load, deployment.placed, deployment.recipe
    content = {
        "recipe": _essence(recipe),
        "topology": deployment.topology.label,
        "lengths": lengths.model_dump(),
        "load": load.model_dump(exclude={"seed"}),
    }
    return Point(
        id=f"{case.scenario}/{case.entry.slug}/c{users}",
        sweep=sweep.name,
        scenario=case.scenario,
        isl=lengths.isl,
        osl=lengths.osl,
        topology=deployment.topology.label,
        name=case.entry.name,
        concurrency=users,
        nodes=len(placed.nodes),
        ranks=sum(role.ranks for role in deployment.topology.roles),
        gpus_used=placed.gpus_used,
        gpus_reserved=placed.gpus_reserved,
        roles=deployment.roles,
        load=load,
        requests=load.requests_per_user * users,
        warmup=load.warmup_per_user * users,
        deployment=deployment.id,
        recipe_hash=_digest(content),
        machines=_digest(_machines(deployment, inventory)),
        model=recipe.model,
        engine=recipe.engine,
        image=inventory.images.get(recipe.image, recipe.image) if recipe.image else None,
        estimate=estimate(model, recipe, deployment.topology, inventory, workload=(lengths, load), users=users),
        notes=_notes(deployment, users),
        commands=deployment.commands,
    )


def _notes(deployment: Deployment, users: int) -> list[str]:
    """What a reader should know of a point that runs all the same."""
    role = deployment.topology.answering
    limit = deployment.recipe.for_role(role).engine_args.get("max_num_seqs")
    room = int(limit) * role.workers * role.layout.dp if isinstance(limit, int) else None
    if room is None or users <= room:
        return []
    return [f"{users} users, and {role.name} takes {room} at a time: {users - room} wait"]


def _lengths_fit(case: _Case, model: ModelSpec | None) -> None:
    tokens = case.lengths.isl + case.lengths.osl
    short = length_refusals(model, case.recipe, case.entry.topology, tokens)
    if short:
        raise PlanRefused("requests do not fit:", short)


def _within(sweep: Sweep, points: list[Point]) -> None:
    """The constraints of a sweep, which all points of an entry keep or none does."""
    limits, point = sweep.constraints, points[0]
    asked = (("nodes", limits.max_nodes, point.nodes), ("GPUs", limits.max_gpus, point.gpus_used))
    over = [
        f"needs {value} {what}; the sweep's constraints allow {limit}"
        for what, limit, value in asked
        if limit is not None and value > limit
    ]
    if over:
        raise PlanRefused("the sweep's constraints are not kept:", over)


@dataclass(frozen=True)
class _Named:
    """The names of what is no point, since it cannot run."""

    id: str
    sweep: str
    scenario: str
    topology: str
    name: str
    concurrency: int


def _named(case: _Case, sweep: Sweep) -> Iterator[_Named]:
    entry = case.entry
    for users in entry.users:
        yield _Named(
            id=f"{case.scenario}/{entry.slug}/c{users}",
            sweep=sweep.name,
            scenario=case.scenario,
            topology=entry.topology.label,
            name=entry.name,
            concurrency=users,
        )


def _distinct(deployments: list[Deployment]) -> list[Deployment]:
    """Deployments whose ids tell them apart: those of one topology get their scenario's name, and those of one
    scenario, which differ by their overrides, a number."""
    ids = [deployment.id for deployment in deployments]
    seen: Counter[str] = Counter()
    for deployment in deployments:
        if ids.count(deployment.id) > 1:
            name = f"{deployment.points[0].scenario}-{deployment.id}"
            seen[name] += 1
            deployment.id = name if seen[name] == 1 else f"{name}-{seen[name]}"
            named = {"deployment": deployment.id}
            deployment.points = [point.with_(**named) for point in deployment.points]
    return deployments


def _essence(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude=set(_UNHASHED), exclude_defaults=True)


def _machines(deployment: Deployment, inventory: Inventory) -> dict[str, Any]:
    """What of the machines a number depends on; not their names and addresses, nor what changes from day to day."""
    image = deployment.recipe.image
    held = [placed for worker in deployment.placed.workers for placed in worker.placements]
    hosts = {host.name: host for host in inventory.hosts}
    return {
        "launcher": inventory.launcher,
        "device": inventory.device,
        "env": inventory.env,
        "image": inventory.images.get(image, image) if image else None,
        "ranks": [
            {
                "gpus": [gpu.kind for gpu in hosts[each.host].gpus if gpu.index in each.gpus],
                **hosts[each.host].model_dump(include={"arch", "cpu_model", "cores", "env"}),
            }
            for each in held
        ],
    }


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
