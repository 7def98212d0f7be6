"""NVIDIA Dynamo with vLLM workers: a frontend, and prefill and decode workers that hand the cache over with NIXL.

Source of names and values: docs/sources.md#racks and docs/sources.md#cpu (file discovery on one host).
"""

from __future__ import annotations

from itertools import groupby
from typing import Any, Final

from overspan.engines.base import FOLDER, Component, RoleWorker, workers_of
from overspan.engines.node import address_of, contained, listens_on, located, node_env, node_process
from overspan.engines.vllm import (
    KV_TRANSFER,
    PORTS_EACH,
    SIDE_CHANNEL_PORT,
    VITAL_TITLES,
    Vllm,
    kv_transfer,
    program,
    serve_args,
    side_channel,
)
from overspan.schema import defaults
from overspan.schema.errors import PlanRefused
from overspan.schema.inventory import Host
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe

ETCD_PORT = 2379
"""Source: etcd's documentation, --listen-client-urls."""

ETCD_PEER_PORT = 2380
"""Source: etcd's documentation, --listen-peer-urls."""

SYSTEM_PORT = 9090
"""First port of a worker's own metrics on its host. Source: Dynamo's operator, DynamoSystemPort."""

OPERATORS = (
    *("DYN_DISCOVERY_BACKEND", "ETCD_ENDPOINTS", "DYN_FILE_KV", "DYN_TCP_RPC_HOST"),
    *("DYN_SYSTEM_PORT", "DYN_SYSTEM_HOST", "CUDA_VISIBLE_DEVICES"),
)
"""What Dynamo's operator for Kubernetes and the device plugin set themselves."""

WAIT_THEN = 'h=$1 p=$2; shift 2; until (exec 3<>"/dev/tcp/$h/$p") 2>/dev/null; do sleep 0.2; done; exec "$@"'
"""Constant text for bash: wait until a port is open, then become the rest. All processes of a run start at once, and
Dynamo's end where etcd does not answer at their start. How long it may take is the run's own limit."""

ON_CPU: dict[str, Any] = {**KV_TRANSFER, "kv_buffer_device": "cpu"}
"""Source: docs/sources.md#cpu (NIXL loads and transfers without CUDA)."""


class Dynamo(Vllm):
    """NVIDIA Dynamo in front of vLLM workers. Every one of them may be a container's."""

    name = "dynamo"
    lock = "dynamo"
    needs = ("ai-dynamo",)
    router_lock = usual_image = hosts_argument = waits_for_hosts_since = None
    several_at_once = False
    operated = True
    workers_path = "/health"

    @property
    def usual_version(self) -> str:
        """The vLLM that this Dynamo pins: that of its lock."""
        from overspan.provision import locked

        return locked.load(self.lock).version.partition("+")[0]

    def processes(self, plan: Plan) -> list[ProcessSpec]:
        """The frontend, the workers, and where files do not serve the etcd by which they find each other."""
        if plan.recipe.topology is None:
            label = plan.layout.label.upper()
            reason = "engine dynamo runs prefill and decode workers, and the recipe has no topology"
            instead = f"--set 'topology=1P1D {label}->{label}', or --set engine=vllm"
            raise PlanRefused("this plan cannot be started:", [reason], next=instead)
        there = located(plan)
        specs = [_frontend(there), *(spec for each in workers_of(plan) for spec in _worker(each))]
        return specs if _by_files(there) else _with_etcd(there, specs)

    def keyless(self, recipe: Recipe) -> str | None:
        """The frontend is started without one."""
        return "Dynamo's frontend asks for none"

    def registered(self, answer: Any, role: str) -> int:
        """Workers that the frontend knows: each registers one endpoint `generate`, decode as `backend`.

        Source: Dynamo 1.6.1, lib/llm/src/http/service/health.rs and dynamo/vllm/args.py.
        """
        component = {"decode": "backend"}.get(role, role)
        return sum((each["component"], each["endpoint"]) == (component, "generate") for each in answer["instances"])

    def components(self, plan: Plan) -> list[Component]:
        """The frontend, and one component a role: its workers are all the same."""
        found = [Component("frontend", "frontend", plan, _bare(_frontend(located(plan))))]
        for role, held in groupby(workers_of(plan), lambda each: each.role):
            first, *others = held
            # The first node's process alone: what joins it to the worker's other nodes is the operator's to add.
            spec = _bare(_worker(first._replace(number=0, placements=first.placements[:1]))[0])
            kind = "worker" if role.name == "aggregated" else role.name
            placed = first.placements
            found.append(Component(role.name, kind, first.plan, spec, placed[0], 1 + len(others), len(placed)))
        return found


ENGINE: Final = Dynamo()


def _bare(spec: ProcessSpec) -> ProcessSpec:
    return spec.with_(env={name: value for name, value in spec.env.items() if name not in OPERATORS})


def _frontend(plan: Plan) -> ProcessSpec:
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


def _worker(worker: RoleWorker) -> list[ProcessSpec]:
    """The processes of one worker, one a host that it spans; their ports follow from its number."""
    plan = worker.plan
    given = plan.recipe.engine_args.get("kv_transfer_config")
    on_cpu = plan.inventory.device == "cpu"
    args = serve_args(plan) | {"kv_transfer_config": kv_transfer(ON_CPU if given is None and on_cpu else given)}
    return [_part(worker, args, index) for index in range(len(worker.placements))]


def _with_etcd(plan: Plan, specs: list[ProcessSpec]) -> list[ProcessSpec]:
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


def _part(worker: RoleWorker, args: dict[str, Any], index: int) -> ProcessSpec:
    """The process of one node of a worker."""
    number, role, plan, placements = worker
    placed = placements[index]
    host = plan.host(placed.host)
    here = address_of(host)
    across = _across(plan, placements, index, address_of(plan.host(placements[0].host)))
    argv = [program(plan, "python"), "-m", "dynamo.vllm", "--model", plan.model_path or plan.recipe.model]
    mode = [] if role.name == "aggregated" else ["--disaggregation-mode", role.name]
    # Workers of one host need ports of their own. A headless node registers nothing and serves no metrics.
    ports = {"nixl": SIDE_CHANNEL_PORT + PORTS_EACH * number}
    ports |= {} if across.get("headless") else {"system": SYSTEM_PORT + number}
    return node_process(
        plan,
        placed,
        argv=[*argv, *mode, *ENGINE.flags.to_argv(args | across)],
        env={
            **({"UCX_TLS": "tcp,shm,self"} if plan.inventory.device == "cpu" else {}),
            **side_channel(here, host, placed, ports["nixl"]),
            **node_env(plan, host, len(placed.ranks)),
            # By these the workers are found and asked: they are the run's own.
            **_discovery(plan, host),
            **({"DYN_SYSTEM_HOST": here, "DYN_SYSTEM_PORT": str(ports["system"])} if "system" in ports else {}),
        },
        ports=ports,
        role=role.name,
        vital_titles=VITAL_TITLES,
    )


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
