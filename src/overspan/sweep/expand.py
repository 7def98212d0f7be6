"""From a sweep to its deployments and points: placed, checked, estimated. Nothing is started."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from overspan import __version__
from overspan.catalog import inventories, models, recipes
from overspan.engines import registry
from overspan.inventory import here
from overspan.planner import disagg, rank
from overspan.planner.disagg import Disaggregated
from overspan.planner.inputs import readable
from overspan.planner.placement import Placed, place
from overspan.planner.roles import length_refusals, role_refusals, sized
from overspan.runs.planning import processes_of
from overspan.schema.errors import ModelUnavailable, OverspanError, PlanRefused
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.model import ModelSpec
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.point import Command, Estimate, Point, PointRole
from overspan.schema.prediction import Prediction
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.sweep import LadderEntry, Load, Scenario, Sweep
from overspan.schema.topology import Role, RoleName, Topology
from overspan.schema.workload import Demand
from overspan.sweep import read
from overspan.sweep.only import PointName, parse_filter

# Fields of a recipe that do not change what a deployment does: texts, names, and the address where it answers.
_UNHASHED = frozenset(
    {"name", "description", "source", "variants", "warnings", "locked", "host", "port", "api_key"}
    | {"restart", "ready_timeout_s", "drain_timeout_s", "layout", "requires"}
)


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
class SweepMatrix:
    """A whole sweep on machines."""

    sweep: Sweep
    inventory: Inventory
    deployments: list[Deployment]

    @property
    def points(self) -> list[Point]:
        """Every point, deployment by deployment."""
        return [point for deployment in self.deployments for point in deployment.points]


def matrix_of(name: str, inventory: str | None, *, to_start: bool, only: str | None = None) -> SweepMatrix:
    """Every point of a sweep that ships or of a file, on an inventory, on the sweep's own, or on this machine.

    Args:
        name: of the sweep, or its file.
        inventory: its name or file.
        to_start: whether the engines must be there.
        only: a filter; entries that it leaves out altogether may be such as cannot run, and have no points then.

    Raises:
        InputError: the sweep, the inventory or the filter is wrong.
        PlanRefused: points that cannot run; every one with its reasons.
    """
    sweep = read.find(name)
    machines = inventory or sweep.inventory
    found = readable(inventories.find(machines) if machines else here.this_machine())
    return _Expansion(sweep, found, to_start=to_start).matrix(only)


@dataclass(frozen=True)
class _EntryCase:
    """An entry of the ladder in one scenario."""

    entry: LadderEntry
    scenario: str
    lengths: Scenario
    load: Load
    recipe: Recipe

    @property
    def key(self) -> str:
        return _digest({"recipe": _essence(self.recipe), "topology": self.entry.topology.label})

    def point_id(self, users: int) -> str:
        return f"{self.scenario}/{self.entry.slug}/c{users}"


class _Expansion:
    """One sweep on one inventory."""

    def __init__(self, sweep: Sweep, inventory: Inventory, *, to_start: bool) -> None:
        self._sweep, self._inventory, self._to_start = sweep, inventory, to_start
        self._base = read.changed(recipes.find(sweep.base), sweep.overrides, f"sweep {sweep.name}: overrides")
        try:
            self._model: ModelSpec | None = models.lookup(self._base.model)
        except ModelUnavailable:
            self._model = None

    def matrix(self, only: str | None) -> SweepMatrix:
        deployments: dict[str, Deployment] = {}
        reasons: list[str] = []
        wanted = parse_filter(only) if only is not None else None
        for case in self._cases():
            try:
                self._require_room(case)
                deployment = deployments.get(case.key) or self._deploy(case)
                points = [self._point(case, users, deployment) for users in case.entry.users]
                self._require_constraints(points[0])
            except PlanRefused as refused:
                if wanted is None or any(wanted.takes(named) for named in self._named(case)):
                    reasons += [f"{case.scenario}/{case.entry.slug}: {reason}" for reason in refused.reasons]
                continue
            deployments[case.key] = deployment
            deployment.points += points
        if reasons:
            raise PlanRefused(
                f"sweep {self._sweep.name} cannot run on {self._inventory.name}:", list(dict.fromkeys(reasons)),
                next="change these entries, or choose others with --only",
            )  # fmt: skip
        return SweepMatrix(self._sweep, self._inventory, _distinct(list(deployments.values())))

    def _cases(self) -> Iterator[_EntryCase]:
        for entry in self._sweep.points:
            load = read.entry_load(self._sweep, entry)
            for name, lengths in self._sweep.scenarios.items():
                if entry.scenarios is None or name in entry.scenarios:
                    # One deployment serves all points of an entry: it is sized for the most users, also with --only.
                    recipe = read.entry_recipe(self._base, self._sweep, entry, lengths)
                    yield _EntryCase(entry, name, lengths, load, sized(recipe, entry.topology, max(entry.users)))

    def _named(self, case: _EntryCase) -> Iterator[PointName]:
        """The names of the points that an entry would have."""
        entry = case.entry
        for users in entry.users:
            id = case.point_id(users)
            yield PointName(id, self._sweep.name, case.scenario, entry.topology.label, entry.name, users)

    def _require_room(self, case: _EntryCase) -> None:
        tokens = case.lengths.isl + case.lengths.osl
        short = length_refusals(self._model, case.recipe, case.entry.topology, tokens)
        if short:
            raise PlanRefused("requests do not fit:", short)

    def _require_constraints(self, point: Point) -> None:
        """The constraints of a sweep, which all points of an entry keep or none does."""
        limits = self._sweep.constraints
        asked = (("nodes", limits.max_nodes, point.nodes), ("GPUs", limits.max_gpus, point.gpus_used))
        over = [
            f"needs {value} {what}; the sweep's constraints allow {limit}"
            for what, limit, value in asked
            if limit is not None and value > limit
        ]
        if over:
            raise PlanRefused("the sweep's constraints are not kept:", over)

    def _deploy(self, case: _EntryCase) -> Deployment:
        entry, recipe = case.entry, case.recipe
        topology = Topology(roles=[role.with_(nodes=entry.nodes.get(role.name)) for role in entry.topology.roles])
        placed = place(topology, self._inventory, whole_nodes=True)
        reasons = role_refusals(self._model, recipe, placed, self._inventory)
        if reasons:
            raise PlanRefused(f"{topology.label} cannot run:", reasons)
        engine = registry.find(recipe.engine).choose(recipe, self._inventory, to_start=self._to_start)
        plans = {role.name: self._plan(recipe.for_role(role), role.layout, placed, engine) for role in topology.roles}
        whole = plans[topology.answering.name]
        if topology.disaggregated:
            whole = self._plan(recipe.with_(topology=topology.label), topology.answering.layout, placed, engine)
        processes = processes_of(whole)
        return Deployment(
            id=entry.slug,
            topology=topology,
            recipe=recipe,
            placed=placed,
            roles={role.name: self._role(role, plans[role.name], placed) for role in topology.roles},
            processes=processes,
            commands=[Command(process=spec.name, host=spec.host, command=shlex.join(spec.words)) for spec in processes],
            engine=engine,
            key=case.key,
        )

    def _plan(self, recipe: Recipe, layout: Layout, placed: Placed, engine: EngineChoice) -> Plan:
        """The plan of one role's workers, or of all together as `up` will make it: by the recipe and the layout."""
        used = [host for host in self._inventory.hosts if host.name in placed.gpus_by_host]
        return Plan(
            recipe=recipe,
            inventory=self._inventory.with_(hosts=used),
            layout=layout,
            engine=engine,
            endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
            placements=placed.placements,
            model_path=self._inventory.models.get(recipe.model),
            overspan_version=__version__,
        )

    def _role(self, role: Role, plan: Plan, placed: Placed) -> PointRole:
        engine = registry.find(plan.recipe.engine)
        args = engine.role_args(plan, apart=placed.topology.disaggregated)
        held = [each for worker in placed.of(role.name) for each in worker.placements]
        return PointRole(
            workers=role.workers,
            layout=role.layout.label.upper(),
            ranks=role.ranks,
            gpus=sum(len(each.gpus) for each in held),
            nodes=list(dict.fromkeys(each.host for each in held)),
            engine_args=plan.recipe.engine_args,
            env={**self._inventory.env, **plan.recipe.env},
            flags=engine.flags.to_argv(args),
        )

    def _point(self, case: _EntryCase, users: int, deployment: Deployment) -> Point:
        lengths, load, placed, recipe = case.lengths, case.load, deployment.placed, deployment.recipe
        topology, images = deployment.topology, self._inventory.images
        content = {
            "recipe": _essence(recipe),
            "topology": topology.label,
            "lengths": lengths.model_dump(),
            "load": load.model_dump(exclude={"seed"}),
        }
        return Point(
            id=case.point_id(users),
            sweep=self._sweep.name,
            scenario=case.scenario,
            isl=lengths.isl,
            osl=lengths.osl,
            topology=topology.label,
            name=case.entry.name,
            concurrency=users,
            nodes=len(placed.nodes),
            ranks=sum(role.ranks for role in topology.roles),
            gpus_used=placed.gpus_used,
            gpus_reserved=placed.gpus_reserved,
            roles=deployment.roles,
            load=load,
            requests=load.requests_per_user * users,
            warmup=load.warmup_per_user * users,
            deployment=deployment.id,
            recipe_hash=_digest(content),
            machines=_digest(_machines(deployment, self._inventory)),
            model=recipe.model,
            engine=recipe.engine,
            image=images.get(recipe.image, recipe.image) if recipe.image else None,
            estimate=self._estimate(case, users, topology),
            notes=_notes(deployment, users),
            commands=deployment.commands,
        )

    def _estimate(self, case: _EntryCase, users: int, topology: Topology) -> Estimate:
        """TPOT, TTFT and tokens a second, or why the planner has nothing to go by."""
        recipe, lengths, load = case.recipe, case.lengths, case.load
        if self._model is None:
            return Estimate(abstained=f"the sizes of {recipe.model} are not known")
        mean = (1 + load.length_ratio) / 2
        rounds = max(1, load.requests_per_user)
        in_step = load.length_ratio == 1
        demand = Demand(
            isl=lengths.isl * mean, osl=lengths.osl * mean, concurrency=users, rounds=rounds, in_step=in_step
        )
        try:
            if topology.disaggregated:
                pair = disagg.predict_topology(self._model, recipe, topology, self._inventory, demand)
                return _rounded(pair, prefill_busy=round(pair.prefill_busy, 3), basis="extrapolated")
            seen = rank.predict_on(self._model, recipe, topology.answering.layout, self._inventory, demand)
        except OverspanError as error:
            return Estimate(abstained=error.what)
        tpot, ttft = seen.interval, seen.ttft_interval
        return _rounded(
            seen,
            interval={
                "tpot_ms": (round(tpot.low, 3), round(tpot.high, 3)),
                "ttft_ms": (round(ttft.low, 1), round(ttft.high, 1)),
            },
            bound=seen.bound,
            basis=seen.basis,
        )


def _rounded(seen: Prediction | Disaggregated, **more: Any) -> Estimate:
    return Estimate(
        tpot_ms=round(seen.tpot_ms, 3),
        ttft_ms=round(seen.ttft_ms, 1),
        output_tokens_per_s=round(seen.output_tokens_per_s, 1),
        interactivity=round(1e3 / seen.tpot_ms, 2),
        **more,
    )


def _notes(deployment: Deployment, users: int) -> list[str]:
    """What a reader should know of a point that runs all the same."""
    role = deployment.topology.answering
    limit = deployment.roles[role.name].engine_args.get("max_num_seqs")
    room = int(limit) * role.workers * role.layout.dp if isinstance(limit, int) else None
    if room is None or users <= room:
        return []
    return [f"{users} users, and {role.name} takes {room} at a time: {users - room} wait"]


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
            deployment.points = [point.with_(deployment=deployment.id) for point in deployment.points]
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
