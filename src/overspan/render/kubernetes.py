"""`overspan plan --render k8s`: the plan's processes as objects of Kubernetes, printed and never applied."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import yaml

from overspan.engines import dynamo, vllm, vllm_ray
from overspan.engines.node import located
from overspan.render import kubernetes_objects
from overspan.render.kubernetes_objects import Manifest, Pod
from overspan.schema import defaults
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.topology import parse_topology


def as_yaml(plan: Plan) -> str:
    """The objects as one stream of YAML documents."""
    return yaml.safe_dump_all(manifests(plan), sort_keys=False, allow_unicode=True, width=100)


def manifests(plan: Plan) -> list[Manifest]:
    """A LeaderWorkerSet and its service for vLLM, a DynamoGraphDeployment for Dynamo.

    Raises:
        InputError: the recipe names no image.
        PlanRefused: pods cannot run the plan; with the reason.
    """
    plan = _in_pods(plan)
    if plan.engine.name == "dynamo":
        return [_graph(plan)]
    if plan.recipe.topology is not None:
        reason = "vLLM's router is in no image of vLLM: use engine dynamo"
        raise PlanRefused("prefill and decode cannot be apart here:", [reason])
    return _group(plan)


def _in_pods(plan: Plan) -> Plan:
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
    # As under Slurm, addresses stand as placeholders: they are the pods' own.
    inventory = plan.inventory.with_(launcher="slurm", hosts=hosts)
    port = defaults.API_PORT if plan.engine.name == "dynamo" else plan.endpoint.port or defaults.API_PORT
    return plan.with_(
        inventory=inventory,
        engine=EngineChoice(name=plan.engine.name, version=plan.engine.version, image=image),
        recipe=plan.recipe.with_(port=port),
        endpoint=plan.endpoint.with_(port=port),
        model_path=plan.inventory.models.get(plan.recipe.model),
    )


def _pod(plan: Plan, name: str, placed: Placement | None, leader: str) -> Pod:
    return Pod(
        gpus=len(placed.gpus) if placed else 0,
        leader=leader,
        secret=f"{name}-secrets",
        hub=plan.model_path is None,
        drain_s=plan.recipe.drain_timeout_s,
        start_s=plan.recipe.ready_timeout_s,
    )


def _group(plan: Plan) -> list[Manifest]:
    name = kubernetes_objects.object_name(plan.recipe.name)
    specs = (vllm_ray if plan.engine.name == "vllm-ray" else vllm).processes(plan)
    templates = [
        kubernetes_objects.pod_template(spec, _pod(plan, name, placed, plan.head), container="vllm")
        for spec, placed in zip(specs, plan.placements, strict=True)
    ]
    return [
        kubernetes_objects.leader_worker_set(name, templates[0], templates[1:]),
        kubernetes_objects.service(name, plan.endpoint.port),
    ]


def _graph(plan: Plan) -> Manifest:
    name = kubernetes_objects.object_name(plan.recipe.name)
    front = kubernetes_objects.component(
        "frontend", "frontend", _component_pod(plan, name, dynamo.frontend(located(plan)))
    )
    workers = groupby(plan.placements, lambda each: each.role)
    return kubernetes_objects.graph_deployment(name, [front, *(_role(plan, name, list(held)) for _, held in workers)])


def _role(plan: Plan, name: str, placements: Sequence[Placement]) -> Manifest:
    """All workers of one role, which are the same: one component."""
    role = next(each for each in parse_topology(plan.recipe.topology or "").roles if each.name == placements[0].role)
    nodes = [list(held) for _, held in groupby(placements, lambda each: each.worker)]
    own = plan.with_(recipe=plan.recipe.for_role(role), layout=role.layout)
    # The first node's process alone: what joins it to the worker's other nodes is the operator's to add.
    spec = dynamo.worker(located(own), role.name, nodes[0][:1])[0]
    template = _component_pod(own, name, spec, nodes[0][0])
    kind = "worker" if role.name == "aggregated" else role.name
    return kubernetes_objects.component(role.name, kind, template, replicas=len(nodes), nodes=len(nodes[0]))


def _component_pod(plan: Plan, name: str, spec: ProcessSpec, placed: Placement | None = None) -> Manifest:
    env = {key: value for key, value in spec.env.items() if key not in dynamo.OPERATORS}
    kept = spec.with_(env=env)
    return kubernetes_objects.pod_template(kept, _pod(plan, name, placed, spec.host), container="main", operated=True)
