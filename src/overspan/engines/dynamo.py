"""NVIDIA Dynamo with vLLM workers: a frontend, and prefill and decode workers that hand the cache over with NIXL.

Source of names and values: docs/sources.md#racks and docs/sources.md#cpu (file discovery on one host).
"""

from __future__ import annotations

import json
from typing import Any

from overspan.catalog.flags import to_argv
from overspan.engines.node import address_of, contained, listens_on, node_env
from overspan.engines.vllm import VITAL_TITLES, program, serve_args
from overspan.schema import defaults
from overspan.schema.errors import RecipeError
from overspan.schema.inventory import Host
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.topology import RoleName

SIDE_CHANNEL_PORT = 5600
"""First port of a worker's NIXL side channel on its host. Source: vllm/envs.py, VLLM_NIXL_SIDE_CHANNEL_PORT."""

ETCD_PORT = 2379
"""Source: etcd's documentation, --listen-client-urls."""

ETCD_PEER_PORT = 2380
"""Source: etcd's documentation, --listen-peer-urls."""

FOLDER = "{folder}"
"""Stands for the run's own folder, which all its processes see: filled in when the run is staged or its job begins."""

SYSTEM_PORT = 9090
"""First port of a worker's own metrics on its host. Source: Dynamo's operator, DynamoSystemPort."""

PORTS_EACH = 16
"""Ports kept free for each worker's side channels: base + its DP rank."""

OPERATORS = (
    *("DYN_DISCOVERY_BACKEND", "ETCD_ENDPOINTS", "DYN_FILE_KV", "DYN_TCP_RPC_HOST"),
    *("DYN_SYSTEM_PORT", "DYN_SYSTEM_HOST", "CUDA_VISIBLE_DEVICES"),
)
"""What Dynamo's operator for Kubernetes and the device plugin set themselves."""

WAIT_THEN = 'h=$1 p=$2; shift 2; until (exec 3<>"/dev/tcp/$h/$p") 2>/dev/null; do sleep 0.2; done; exec "$@"'
"""Constant text for bash: wait until a port is open, then become the rest. All processes of a run start at once, and
Dynamo's end where etcd does not answer at their start. How long it may take is the run's own limit."""

KV_TRANSFER: dict[str, Any] = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}

ON_CPU: dict[str, Any] = {**KV_TRANSFER, "kv_buffer_device": "cpu"}
"""Source: docs/sources.md#cpu (NIXL loads and transfers without CUDA)."""


def kv_transfer(given: Any) -> dict[str, Any]:
    """The connector's configuration; a transfer that failed must fail the request, never give wrong tokens.

    Args:
        given: a mapping or its JSON, as a recipe may hold either; None for NIXL.

    Raises:
        RecipeError: it is neither.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = False
    if given is not None and not isinstance(given, dict):
        raise RecipeError(
            "kv_transfer_config is no JSON object", next='write it like {"kv_connector": "NixlConnector"}'
        )
    return _failing(KV_TRANSFER if given is None else given)


def _failing(asked: dict[str, Any]) -> dict[str, Any]:
    """The same for the connectors that a MultiConnector holds."""
    more = asked.get("kv_connector_extra_config")
    held = more.get("connectors") if isinstance(more, dict) else None
    if isinstance(more, dict) and isinstance(held, list):
        inner = [_failing(each) if isinstance(each, dict) else each for each in held]
        asked = {**asked, "kv_connector_extra_config": {**more, "connectors": inner}}
    return {**asked, "kv_load_failure_policy": "fail"}


def frontend(plan: Plan) -> ProcessSpec:
    """The process that answers requests, on the head."""
    host = plan.inventory.hosts[0]
    argv = [program(plan, "python"), "-m", "dynamo.frontend"]
    argv += ["--http-host", listens_on(plan, host), "--http-port", str(plan.endpoint.port)]
    spec = ProcessSpec(
        name="frontend",
        host=host.name,
        argv=argv,
        env={**node_env(plan, host, 1), **_discovery(plan, host)},
        ports={"api": plan.endpoint.port},
        role="frontend",
    )
    return contained(spec, plan, host)


def worker(plan: Plan, role: RoleName, placements: list[Placement], number: int = 0) -> list[ProcessSpec]:
    """The processes of one worker, one a host that it spans.

    Args:
        plan: recipe and layout as this role runs them; its placements are those of all workers.
        role: of this worker.
        placements: of this worker.
        number: of this worker among all, both roles counted; its ports follow from it.
    """
    given = plan.recipe.engine_args.get("kv_transfer_config")
    on_cpu = plan.inventory.device == "cpu"
    args = serve_args(plan) | {"kv_transfer_config": kv_transfer(ON_CPU if given is None and on_cpu else given)}
    return [_part(plan, role, args, placements, (index, number)) for index in range(len(placements))]


def with_etcd(plan: Plan, specs: list[ProcessSpec]) -> list[ProcessSpec]:
    """The processes, and the etcd by which they find each other where files do not serve."""
    if _by_files(plan):
        return specs
    head = plan.inventory.hosts[0]
    address = address_of(head)
    url = f"http://{address}:{ETCD_PORT}"
    # One member; its data is worth nothing after the run. A container has a /tmp of its own.
    folder = "/tmp/etcd" if plan.engine.image else f"{FOLDER}/etcd"  # noqa: S108
    argv = [program(plan, "etcd"), "--data-dir", folder, "--listen-client-urls", url, "--advertise-client-urls", url]
    # Its peers' port is opened even where there are none.
    argv += ["--listen-peer-urls", f"http://{defaults.LOOPBACK}:{ETCD_PEER_PORT}"]
    etcd = ProcessSpec(
        name="etcd", host=head.name, argv=argv, env=node_env(plan, head, 1), ports={"etcd": ETCD_PORT}, role="etcd"
    )
    return [*(_after_etcd(spec, address) for spec in specs), contained(etcd, plan, head)]


def _after_etcd(spec: ProcessSpec, address: str) -> ProcessSpec:
    shell, *argv = ["bash", "-c", WAIT_THEN, "bash", address, str(ETCD_PORT), *spec.words]
    changes = {"entrypoint": shell, "argv": argv} if spec.entrypoint else {"argv": [shell, *argv]}
    return spec.with_(**changes)


def _part(
    plan: Plan, role: RoleName, args: dict[str, Any], placements: list[Placement], place: tuple[int, int]
) -> ProcessSpec:
    """One process. `place`: its node's number within the worker, and the worker's among all."""
    index, number = place
    hosts = {host.name: host for host in plan.inventory.hosts}
    placed = placements[index]
    host, head = hosts[placed.host], hosts[placements[0].host]
    here = address_of(host)
    across = _across(plan, placements, index, address_of(head))
    argv = [program(plan, "python"), "-m", "dynamo.vllm", "--model", plan.model_path or plan.recipe.model]
    mode = [] if role == "aggregated" else ["--disaggregation-mode", role]
    # Workers of one host need ports of their own. A headless node registers nothing and serves no metrics.
    ports = {"nixl": SIDE_CHANNEL_PORT + PORTS_EACH * number}
    ports |= {} if across.get("headless") else {"system": SYSTEM_PORT + number}
    part = len(placed.gpus) < len(host.gpus)
    spec = ProcessSpec(
        name=placed.process,
        host=host.name,
        argv=[*argv, *mode, *to_argv(args | across)],
        env={
            **({"UCX_TLS": "tcp,shm,self"} if plan.inventory.device == "cpu" else {}),
            "VLLM_NIXL_SIDE_CHANNEL_HOST": here,
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(ports["nixl"]),
            **({"CUDA_VISIBLE_DEVICES": ",".join(map(str, placed.gpus))} if part else {}),
            **node_env(plan, host, len(placed.ranks)),
            # By these the workers are found and asked: they are the run's own.
            **_discovery(plan, host),
            **({"DYN_SYSTEM_HOST": here, "DYN_SYSTEM_PORT": str(ports["system"])} if "system" in ports else {}),
        },
        ports=ports,
        ranks=placed.ranks,
        role=role,
        vital_titles=VITAL_TITLES,
    )
    return contained(spec, plan, host)


def _across(plan: Plan, placements: list[Placement], index: int, head: str) -> dict[str, Any]:
    """Where one process stands in a worker that spans hosts."""
    if len(placements) == 1:
        return {}
    layout, ranks = plan.layout, len(placements[index].ranks)
    if layout.dp > 1 and ranks % layout.tp == 0:
        local = ranks // layout.tp
        return {
            "data_parallel_hybrid_lb": True,
            "data_parallel_size_local": local,
            "data_parallel_start_rank": index * local,
            "data_parallel_address": head,
            "data_parallel_rpc_port": defaults.DP_RPC_PORT,
        }
    nodes = {"nnodes": len(placements), "node_rank": index, "master_addr": head, "master_port": defaults.MASTER_PORT}
    return nodes | ({"headless": True} if index else {})


def _by_files(plan: Plan) -> bool:
    """Whether all processes see one folder: those of one host do, unless each has a container's own."""
    return len({each.host for each in plan.placements}) == 1 and plan.engine.image is None


def _discovery(plan: Plan, host: Host) -> dict[str, str]:
    """How workers and frontend find each other: etcd alone, or files of this run."""
    planes = {"DYN_REQUEST_PLANE": "tcp", "DYN_EVENT_PLANE": "zmq", "DYN_TCP_RPC_HOST": address_of(host)}
    if _by_files(plan):
        # The default is one folder for all runs of a machine.
        return {"DYN_DISCOVERY_BACKEND": "file", "DYN_FILE_KV": f"{FOLDER}/dynamo", **planes}
    etcd = f"http://{address_of(plan.inventory.hosts[0])}:{ETCD_PORT}"
    return {"DYN_DISCOVERY_BACKEND": "etcd", "ETCD_ENDPOINTS": etcd, **planes}
