"""`overspan plan --render k8s`: the plan's processes as objects of Kubernetes, printed and never applied.

A pod's command is a list as ours is, but Kubernetes replaces `$(NAME)` in it, and in values of the environment. So
every dollar of a plan is doubled, which stands for one, and only this file's own references are replaced.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from overspan.engines import registry
from overspan.engines.base import Component, Engine
from overspan.schema import defaults
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.launcher_traits import BUILT_IN
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.yamlio import plain

KubernetesObject = dict[str, Any]

POD_IP: Final = "$(POD_IP)"
LEADER: Final = "$(LWS_LEADER_ADDRESS)"
WORKER_INDEX: Final = "$(LWS_WORKER_INDEX)"
"""Set by LeaderWorkerSet in every container. Source: lws, pkg/utils/pod/pod_utils.go (AddLWSVariables), from 0.6."""

GPU: Final = "nvidia.com/gpu"
"""Source: NVIDIA's device plugin for Kubernetes, README."""

END_MARGIN_S: Final = 10
"""What an engine may need to end after its streams have."""

LONGEST_NAME: Final = 40
"""Kubernetes allows 63, of which controllers take some for what they append."""

_ADDRESS: Final = re.compile(r"\{address:([^}]*)\}")


def as_yaml(plan: Plan) -> str:
    """The objects as one stream of YAML documents."""
    return yaml.safe_dump_all(manifests(plan), sort_keys=False, allow_unicode=True, width=100)


def manifests(plan: Plan) -> list[KubernetesObject]:
    """A LeaderWorkerSet and its service, or what the engine's own operator takes.

    Raises:
        InputError: the recipe names no image.
        PlanRefused: pods cannot run the plan; with the reason.
    """
    engine = registry.find(plan.engine.name)
    plan = _in_pods(plan, engine)
    if engine.operated:
        return [_graph(plan, engine.components(plan))]
    if plan.recipe.topology is not None:
        reason = f"{engine.title} has no operator that joins their pods: use engine dynamo"
        raise PlanRefused("separate prefill and decode workers cannot run here:", [reason])
    return _group(plan, engine.processes(plan), engine.title.lower())


def _in_pods(plan: Plan, engine: Engine) -> Plan:
    """The plan without what belongs to a site: a pod has an address and GPUs of its own, and the cluster's network."""
    named = plan.recipe.image
    image = plan.engine.image or (plan.inventory.images.get(named, named) if named else None)
    if image is None:
        raise InputError(
            f"recipe {plan.recipe.name} names no image, and pods are made of images", next="--set image=NAME:TAG"
        )
    used = {each.host for each in plan.placements}
    bare = {"fabric": None, "container": None, "ssh": None, "model_cache": None}
    hosts = [host.with_(**bare) for host in plan.inventory.hosts if host.name in used]
    # Addresses are the pods' own: they stand as placeholders, as with a launcher that chooses the hosts.
    chooses = next(name for name, traits in BUILT_IN.items() if traits.chooses_hosts)
    inventory = plan.inventory.with_(launcher=chooses, hosts=hosts)
    port = defaults.API_PORT if engine.operated else plan.endpoint.port or defaults.API_PORT
    return plan.with_(
        inventory=inventory,
        engine=EngineChoice(name=plan.engine.name, version=plan.engine.version, image=image),
        recipe=plan.recipe.with_(port=port),
        endpoint=plan.endpoint.with_(port=port),
        model_path=plan.inventory.models.get(plan.recipe.model),
    )


@functools.cache
def _parts() -> dict[str, KubernetesObject]:
    held: dict[str, KubernetesObject] = plain(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return held


def _part(name: str) -> KubernetesObject:
    """A part of an object, without what differs."""
    return deepcopy(_parts()[name])


def _object_name(text: str) -> str:
    """A name that Kubernetes takes: small letters, digits and '-', a letter first (RFC 1035)."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower())[:LONGEST_NAME].strip("-")
    return name if name[:1].isalpha() else f"run-{name}"


def _group(plan: Plan, specs: Sequence[ProcessSpec], container: str) -> list[KubernetesObject]:
    """One group of pods that start and end together, and its address."""
    name = _object_name(plan.recipe.name)
    pods = [Pod(plan, spec, placed, plan.head) for spec, placed in zip(specs, plan.placements, strict=True)]
    leader, *workers = [pod.template(container, operated=False) for pod in pods]
    if any(worker != workers[0] for worker in workers):
        raise InputError(
            "the nodes of this plan differ by more than their rank, and a LeaderWorkerSet has one template for all",
            next="take as many GPUs of every node: --set layout=...",
        )
    found, service = _part("leader_worker_set"), _part("service")
    found["metadata"]["name"] = name
    group = found["spec"]["leaderWorkerTemplate"]
    group["leaderTemplate"] |= leader
    # A template for workers is required, and used for no pod where there is one node.
    group |= {"size": len(pods), "workerTemplate": workers[0] if workers else deepcopy(leader)}
    service["metadata"]["name"] = f"{name}-api"
    service["spec"]["selector"]["leaderworkerset.sigs.k8s.io/name"] = name
    service["spec"]["ports"][0]["port"] = plan.endpoint.port
    return [found, service]


def _graph(plan: Plan, components: Sequence[Component]) -> KubernetesObject:
    found, parts = _part("graph"), []
    for each in components:
        template = Pod(each.plan, each.spec, each.placement, each.spec.host).template("main", operated=True)
        part = {"name": each.name, "type": each.kind, "replicas": each.replicas, "podTemplate": template}
        if each.nodes > 1:
            part["multinode"] = {"nodeCount": each.nodes}
            part["podTemplate"] = {"metadata": _part("multinode"), **template}
        parts.append(part)
    found["metadata"]["name"] = _object_name(plan.recipe.name)
    found["spec"]["components"] = parts
    return found


@dataclass(frozen=True)
class Pod:
    """A process of a plan as a pod. `leader`: the host whose pod the others know."""

    plan: Plan
    spec: ProcessSpec
    placed: Placement | None
    leader: str

    def template(self, container: str, *, operated: bool) -> KubernetesObject:
        """The pod.

        Args:
            container: the name of its container.
            operated: whether an operator opens ports, probes them and gives shared memory.

        Raises:
            InputError: the process has no image, or knows an address that no pod has.
        """
        spec, recipe = self.spec, self.plan.recipe
        if spec.image is None or spec.entrypoint is None:
            raise InputError("pods need an image, and the recipe names none", next="--set image=NAME:TAG")
        found: KubernetesObject = {
            "name": container,
            "image": spec.image,
            "command": [self._text(spec.entrypoint)],
            "args": self._arguments(),
            "env": self._environment(),
        }
        if not operated and "api" in spec.ports:
            found["ports"] = [{"name": "api", "containerPort": spec.ports["api"]}]
            found["startupProbe"] = probe = _part("probe")
            probe["failureThreshold"] = math.ceil(recipe.ready_timeout_s / probe["periodSeconds"])
        if self.placed and self.placed.gpus:
            found["resources"] = {"limits": {GPU: str(len(self.placed.gpus))}}
        mounts, volumes = self._volumes(shared_memory=not operated)
        if mounts:
            found["volumeMounts"] = mounts
        ending = math.ceil(recipe.drain_timeout_s) + END_MARGIN_S
        body: KubernetesObject = {"containers": [found], "terminationGracePeriodSeconds": ending}
        return {"spec": {**body, "volumes": volumes} if volumes else body}

    def _arguments(self) -> list[str]:
        words = [self._text(word) for word in self.spec.argv]
        for index, word in enumerate(words[:-1]):
            if word == "--node-rank" and words[index + 1] != "0":
                words[index + 1] = WORKER_INDEX
        return words

    def _environment(self) -> list[KubernetesObject]:
        secret = f"{_object_name(self.plan.recipe.name)}-secrets"
        found = [_part("address")]
        found += [{"name": name, "value": self._text(value)} for name, value in self.spec.env.items()]
        wanted = dict.fromkeys([*self.spec.secrets, *self.plan.recipe.secrets])
        found += [{"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in wanted]
        # A hub may ask for a token.
        return found if self.plan.model_path or "HF_TOKEN" in wanted else [*found, _part("hub")]

    def _text(self, text: str) -> str:
        def address(match: re.Match[str]) -> str:
            if match[1] == self.spec.host:
                return POD_IP
            if match[1] == self.leader:
                return LEADER
            what = f"process {self.spec.name} knows the address of {match[1]}, which is no leader of its pods"
            raise InputError(what)

        return _ADDRESS.sub(address, text.replace("$", "$$"))

    def _volumes(self, *, shared_memory: bool) -> tuple[list[KubernetesObject], list[KubernetesObject]]:
        """Shared memory, and the folders of the host."""
        own = [_part("shared_memory")] if shared_memory else []
        mounts, volumes = [each["mount"] for each in own], [each["volume"] for each in own]
        for number, mount in enumerate(self.spec.mounts):
            mounts.append({"name": f"host-{number}", "mountPath": mount.target, "readOnly": mount.read_only})
            volumes.append({"name": f"host-{number}", "hostPath": {"path": mount.source, "type": "Directory"}})
        return mounts, volumes
