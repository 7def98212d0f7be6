"""What Overspan asks of an engine: one object an engine, in one file of its own; see docs/extending.md."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import groupby
from typing import Any, ClassVar, Final, NamedTuple

from overspan.catalog.flags import Parser
from overspan.endpoint.metric_names import MetricNames
from overspan.engines.node import located
from overspan.engines.phases import Phase
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.topology import Role, parse_topology
from overspan.store.locks import Say

FOLDER: Final = "{folder}"
"""Stands for the run's own folder, which all its processes see: filled in when the run is staged or its job begins."""


class RoleWorker(NamedTuple):
    """One prefill or decode worker of a plan. `number`: among all of them. `plan`: as its role runs, all placements."""

    number: int
    role: Role
    plan: Plan
    placements: list[Placement]


class Component(NamedTuple):
    """A part of an engine that an operator for Kubernetes runs: `replicas` of `spec`, each over `nodes` nodes."""

    name: str
    kind: str
    plan: Plan
    spec: ProcessSpec
    placement: Placement | None = None
    replicas: int = 1
    nodes: int = 1


class Engine(ABC):
    """One engine. Another states `name`, `title`, `flags`, `here` and `processes`, and what else differs."""

    name: ClassVar[str]
    """As recipes name it."""

    title: ClassVar[str]
    """As messages name it, before a version: "vLLM"."""

    flags: ClassVar[Parser]
    """Its arguments, as `engine_args` of a recipe holds them."""

    metrics: ClassVar[MetricNames] = MetricNames()
    """Its names of what the live view, the bench and the proof of a transfer read of its `/metrics`."""

    pause_line: ClassVar[str | None] = None
    """A regular expression of the lines in which its log says that it held up requests, to compile for example."""

    phases: ClassVar[tuple[Phase, ...]] = ()
    """The lines in which its log says how far its start is."""

    key_variable: ClassVar[str] = "VLLM_API_KEY"
    """The environment variable in which its process that answers is given the endpoint's key."""

    takes_plugin: ClassVar[bool] = False
    """Whether our vLLM plugin belongs into its processes that hold ranks."""

    loads_weights: ClassVar[bool] = True
    """Whether the model's files must be on the disks of its hosts before it starts."""

    tokens: ClassVar[tuple[str, ...]] = ()
    """Environment variables with secrets by which its processes know each other, one value for a run."""

    distributions: ClassVar[tuple[str, ...]] = ()
    """Python packages, any of which holds it; preflight compares the version over the hosts."""

    same_python: ClassVar[bool] = False
    """Whether its ranks are pickled from host to host, so that Ray's and Python's versions must agree too."""

    usual_image: ClassVar[str | None] = None
    """The container image where a recipe names none, with `{version}` in it."""

    hosts_argument: ClassVar[str | None] = None
    """The argument without which it cannot run over several hosts; a version that does not know it is refused."""

    waits_for_hosts_since: ClassVar[str | None] = None
    """The first version that waits for slow hosts of a run; None where no version is known to give up."""

    several_at_once: ClassVar[bool] = True
    """Whether several of it can start on one machine: no port of it is fixed."""

    before_graphs: ClassVar[str] = ""
    """What must change before CUDA graphs can be used, as part of a sentence."""

    operated: ClassVar[bool] = False
    """Whether an operator of its own runs it in Kubernetes, see `components`."""

    def choose(self, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
        """The engine that runs a recipe on machines: an image, the nodes' own, or what is installed here.

        Args:
            recipe: what is to run.
            inventory: where.
            to_start: whether the engine must be there; a plan alone can be made without it.

        Raises:
            InputError: containers are started there, and the recipe names no image.
            EngineMissing: it must be there and is not.
        """
        version = recipe.engine_version or self.usual_version
        environment = inventory.engine_environment
        assumed: str | None = f"{inventory.name} is not asked for it"
        if not inventory.contains(recipe.image):
            if inventory.traits.here:
                return self.here(recipe, inventory, to_start=to_start)
            if (told := self.version_in(environment)) is not None:
                version, assumed = told, None
            return EngineChoice(name=self.name, version=version, environment=environment, assumed=assumed)
        if recipe.image is None:
            raise InputError(
                f"recipe {recipe.name} names no image, and inventory {inventory.name} starts containers",
                next="--set image=NAME:TAG",
            )
        image = inventory.images.get(recipe.image, recipe.image)
        told = self.image_version(image)
        if recipe.engine_version is None:
            version = told or version
        assumed = None if told else "the image's name does not tell it"
        return EngineChoice(name=self.name, version=version, environment=environment, image=image, assumed=assumed)

    @abstractmethod
    def here(self, recipe: Recipe, inventory: Inventory, *, to_start: bool) -> EngineChoice:
        """The engine as it is installed on this machine.

        Args:
            recipe: what is to run.
            inventory: this machine; it may name an environment.
            to_start: whether it must be there; a plan alone can be made without it.

        Raises:
            EngineMissing: it must be there and is not.
        """

    def learn(self, choice: EngineChoice, say: Say) -> None:
        """Before a start: read what just this version takes, where that is not known yet. It never refuses."""
        return  # most engines are as they ship

    def version_in(self, environment: str | None) -> str | None:
        """The version in an environment of other hosts, as far as a shared folder shows it on this machine."""
        return None

    def label(self, choice: EngineChoice) -> str:
        """Name and version for a person: `vllm 0.32.0`, `dynamo with vLLM 0.31.0`."""
        holds = "" if self.name == self.title.lower() else f"with {self.title} "
        return f"{self.name} {holds}{choice.version}{f' (assumed: {choice.assumed})' if choice.assumed else ''}"

    @property
    def usual_version(self) -> str:
        """The version that is assumed where nothing tells one."""
        return self.flags.latest

    @abstractmethod
    def processes(self, plan: Plan) -> list[ProcessSpec]:
        """The processes of a plan, the one that answers requests first.

        Raises:
            PlanRefused: it cannot run this plan on these machines.
        """

    def image_version(self, image: str | None) -> str | None:
        """The version in an image; None where its name does not tell."""
        return None

    def role_args(self, plan: Plan, *, apart: bool) -> dict[str, Any]:
        """The arguments that all workers of one role have. `apart`: whether prefill and decode are apart."""
        return dict(plan.recipe.engine_args)

    def keyless(self, recipe: Recipe) -> str | None:
        """Why it cannot ask clients for the endpoint's key; None where it can."""
        return None

    def registered(self, answer: Any, role: str) -> int:
        """How many workers of a role (prefill, decode) the answer of `workers_path` tells.

        Raises:
            KeyError, TypeError, ValueError: it is no such answer.
        """
        raise ValueError(f"{self.title} does not tell its workers")

    workers_path: ClassVar[str] = "/workers"
    """Where the process that answers requests tells its workers."""

    def dashboard(self, plan: Plan) -> str | None:
        """The address of its own dashboard."""
        return None

    def components(self, plan: Plan) -> list[Component]:
        """What its operator runs in Kubernetes, where it is `operated`."""
        raise NotImplementedError


def workers_of(plan: Plan) -> Iterator[RoleWorker]:
    """The workers of a plan whose prefill and decode are apart, each as its role runs it."""
    roles = {role.name: role for role in parse_topology(plan.recipe.topology or "").roles}
    for number, (_, held) in enumerate(groupby(plan.placements, lambda each: (each.role, each.worker))):
        placements = list(held)
        role = roles[placements[0].role]
        own = plan.with_(recipe=plan.recipe.for_role(role), layout=role.layout)
        yield RoleWorker(number, role, located(own), placements)
