"""Processes as Kubernetes objects: values for a YAML library, printed and never applied.

A pod's command is a list as ours is, but Kubernetes replaces `$(NAME)` in it, and in values of the environment. So
every dollar of a plan is doubled, which stands for one, and only this file's own references are replaced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from overspan.schema.errors import InputError
from overspan.schema.process import ProcessSpec

PodObject = dict[str, Any]

POD_IP: Final = "$(POD_IP)"
LEADER: Final = "$(LWS_LEADER_ADDRESS)"
WORKER_INDEX: Final = "$(LWS_WORKER_INDEX)"
"""Set by LeaderWorkerSet in every container. Source: lws, pkg/utils/pod/pod_utils.go (AddLWSVariables), from 0.6."""

GPU: Final = "nvidia.com/gpu"
"""Source: NVIDIA's device plugin for Kubernetes, README."""

HF_SECRET: Final = "hf-token-secret"  # noqa: S105 - the name of a secret
"""The secret that holds HF_TOKEN, by the name that Dynamo's own examples use."""

STARTUP_PERIOD_S: Final = 10
END_MARGIN_S: Final = 10
"""What an engine may need to end after its streams have."""

LONGEST_NAME: Final = 40
"""Kubernetes allows 63, of which controllers take some for what they append."""

_ADDRESS: Final = re.compile(r"\{address:([^}]*)\}")


@dataclass(frozen=True)
class Pod:
    """What a process needs of a pod beside its command.

    `gpus`: how many. `leader`: the host whose pod the others know. `secret`: where the process's secrets are.
    `hub`: whether the model comes from a hub that may ask for a token.
    """

    gpus: int
    leader: str
    secret: str
    hub: bool
    drain_s: float
    start_s: float


def object_name(text: str) -> str:
    """A name that Kubernetes takes: small letters, digits and '-', a letter first (RFC 1035)."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower())[:LONGEST_NAME].strip("-")
    return name if name[:1].isalpha() else f"run-{name}"


def leader_worker_set(name: str, template: PodObject, workers: Sequence[PodObject]) -> PodObject:
    """One group of pods that start and end together. `template` is the first node's pod, `workers` the others'.

    Raises:
        InputError: the workers are not all the same.
    """
    if any(worker != workers[0] for worker in workers):
        raise InputError(
            "the nodes of this plan differ by more than their rank, and a LeaderWorkerSet has one template for all",
            next="take as many GPUs of every node: --set layout=...",
        )
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "leaderWorkerTemplate": {
                "size": 1 + len(workers),
                # A rank that dies takes the others with it: none of them can go on alone.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": {"role": "leader"}}, **template},
                # Required, and used for no pod where there is one node.
                "workerTemplate": workers[0] if workers else deepcopy(template),
            },
        },
    }


def service(name: str, port: int) -> PodObject:
    """The one address of a LeaderWorkerSet's API. Its own headless service has the set's name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{name}-api"},
        "spec": {
            "selector": {"leaderworkerset.sigs.k8s.io/name": name, "role": "leader"},
            "ports": [{"name": "api", "port": port, "targetPort": "api"}],
        },
    }


def graph_deployment(name: str, components: Sequence[PodObject]) -> PodObject:
    """Dynamo's frontend and workers; its operator adds discovery, ports, probes and what joins nodes."""
    return {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": name},
        "spec": {"backendFramework": "vllm", "components": list(components)},
    }


def component(name: str, role: str, template: PodObject, *, replicas: int = 1, nodes: int = 1) -> PodObject:
    """One component of a graph: a role of Dynamo's with its pods. `nodes`: how many one worker spans."""
    found: PodObject = {"name": name, "type": role, "replicas": replicas, "podTemplate": template}
    if nodes > 1:
        found["multinode"] = {"nodeCount": nodes}
        # vLLM's own processes on every node, as Overspan's native layouts are; the operator knows Ray too.
        found["podTemplate"] = {
            "metadata": {"annotations": {"nvidia.com/vllm-distributed-executor-backend": "mp"}},
            **template,
        }
    return found


def pod_template(spec: ProcessSpec, pod: Pod, *, container: str, operated: bool = False) -> PodObject:
    """One process as a pod.

    Args:
        spec: the process, with an image.
        pod: what else it needs.
        container: the container's name.
        operated: whether an operator opens ports, probes them and gives shared memory.

    Raises:
        InputError: it has no image, or knows an address that no pod has.
    """
    if spec.image is None or spec.entrypoint is None:
        raise InputError("pods need an image, and the recipe names none", next="--set image=NAME:TAG")
    found: PodObject = {
        "name": container,
        "image": spec.image,
        "command": [_text(spec.entrypoint, spec, pod)],
        "args": _arguments(spec, pod),
        "env": _environment(spec, pod),
    }
    if not operated and "api" in spec.ports:
        found["ports"] = [{"name": "api", "containerPort": spec.ports["api"]}]
        found["startupProbe"] = {
            "httpGet": {"path": "/health", "port": "api"},
            "periodSeconds": STARTUP_PERIOD_S,
            "failureThreshold": math.ceil(pod.start_s / STARTUP_PERIOD_S),
        }
    if pod.gpus:
        found["resources"] = {"limits": {GPU: str(pod.gpus)}}
    mounts, volumes = _volumes(spec, shared_memory=not operated)
    if mounts:
        found["volumeMounts"] = mounts
    body: PodObject = {
        "containers": [found],
        "terminationGracePeriodSeconds": math.ceil(pod.drain_s) + END_MARGIN_S,
    }
    return {"spec": {**body, "volumes": volumes} if volumes else body}


def _arguments(spec: ProcessSpec, pod: Pod) -> list[str]:
    words = [_text(word, spec, pod) for word in spec.argv]
    for index, word in enumerate(words[:-1]):
        if word == "--node-rank" and words[index + 1] != "0":
            words[index + 1] = WORKER_INDEX
    return words


def _environment(spec: ProcessSpec, pod: Pod) -> list[PodObject]:
    """The pod's own address first: what refers to it must come after it."""
    found: list[PodObject] = [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    found += [{"name": name, "value": _text(value, spec, pod)} for name, value in spec.env.items()]
    found += [{"name": name, "valueFrom": {"secretKeyRef": {"name": pod.secret, "key": name}}} for name in spec.secrets]
    if pod.hub:
        token = {"name": HF_SECRET, "key": "HF_TOKEN", "optional": True}
        found.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": token}})
    return found


def _text(text: str, spec: ProcessSpec, pod: Pod) -> str:
    def address(match: re.Match[str]) -> str:
        if match[1] == spec.host:
            return POD_IP
        if match[1] == pod.leader:
            return LEADER
        raise InputError(f"process {spec.name} knows the address of {match[1]}, which is no leader of its pods")

    return _ADDRESS.sub(address, text.replace("$", "$$"))


def _volumes(spec: ProcessSpec, *, shared_memory: bool) -> tuple[list[PodObject], list[PodObject]]:
    """Shared memory for the ranks of a node (Docker's and Kubernetes' own is 64 MB), and the folders of the host."""
    mounts: list[PodObject] = []
    volumes: list[PodObject] = []
    if shared_memory:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})  # noqa: S108 - the container's
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
    for number, mount in enumerate(spec.mounts):
        mounts.append({"name": f"host-{number}", "mountPath": mount.target, "readOnly": mount.read_only})
        volumes.append({"name": f"host-{number}", "hostPath": {"path": mount.source, "type": "Directory"}})
    return mounts, volumes
