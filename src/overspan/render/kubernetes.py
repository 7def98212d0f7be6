"""`overspan plan --render k8s`: the plan's processes as objects of Kubernetes, printed and never applied."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from overspan.engines import registry
from overspan.engines.base import Component, Engine
from overspan.render import kubernetes_objects
from overspan.render.kubernetes_objects import Pod, PodObject
from overspan.schema import defaults
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.plan import EngineChoice, Placement, Plan
from overspan.schema.process import ProcessSpec


def as_yaml(plan: Plan) -> str:
    """The objects as one stream of YAML documents."""
    return yaml.safe_dump_all(manifests(plan), sort_keys=False, allow_unicode=True, width=100)


def manifests(plan: Plan) -> list[PodObject]:
    """A LeaderWorkerSet and its service for vLLM, a DynamoGraphDeployment for Dynamo.

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
        raise PlanRefused("prefill and decode cannot be apart here:", [reason])
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
    # As under Slurm, addresses stand as placeholders: they are the pods' own.
    inventory = plan.inventory.with_(launcher="slurm", hosts=hosts)
    port = defaults.API_PORT if engine.operated else plan.endpoint.port or defaults.API_PORT
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


def _group(plan: Plan, specs: Sequence[ProcessSpec], container: str) -> list[PodObject]:
    name = kubernetes_objects.object_name(plan.recipe.name)
    templates = [
        kubernetes_objects.pod_template(spec, _pod(plan, name, placed, plan.head), container=container)
        for spec, placed in zip(specs, plan.placements, strict=True)
    ]
    return [
        kubernetes_objects.leader_worker_set(name, templates[0], templates[1:]),
        kubernetes_objects.service(name, plan.endpoint.port),
    ]


def _graph(plan: Plan, components: Sequence[Component]) -> PodObject:
    name = kubernetes_objects.object_name(plan.recipe.name)
    found = []
    for each in components:
        pod = _pod(each.plan, name, each.placement, each.spec.host)
        template = kubernetes_objects.pod_template(each.spec, pod, container="main", operated=True)
        found.append(
            kubernetes_objects.component(each.name, each.kind, template, replicas=each.replicas, nodes=each.nodes)
        )
    return kubernetes_objects.graph_deployment(name, found)
