"""What each node's environment needs, whatever the engine: which address and interface are its own."""

from __future__ import annotations

import re
from typing import Any

from overspan.engines import patches
from overspan.schema.defaults import EVERYWHERE, LOOPBACK, LOOPBACKS
from overspan.schema.inventory import Fabric, Host
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import Mount, ProcessSpec

BASE_ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "PYTHONUNBUFFERED": "1",
    # A switch of our vLLM plugin (plugin/, where the engine has it): no process of the engine outlives its parent.
    "OVERSPAN_DIE_WITH_PARENT": "1",
}

CPU_KV_CACHE_GIB = 1
"""Memory of the KV cache on a CPU; with 1 GiB SmolLM2 holds 46,592 tokens (engine log, 2026-11-22)."""

_KV_CACHE = {"VLLM_CPU_KVCACHE_SPACE": str(CPU_KV_CACHE_GIB)}
"""The variable would win over the argument kv_cache_memory_bytes (vLLM 0.32, platforms/cpu.py)."""


def node_env(plan: Plan, host: Host, ranks: int) -> dict[str, str]:
    """The environment of one node's engine process; what the user wrote comes last and wins."""
    several = len(plan.placements) > 1
    given = {**plan.inventory.env, **plan.recipe.env, **host.env}
    rdma = not given.get("UCX_TLS") or _UCX_RDMA.search(given["UCX_TLS"]) is not None
    return {
        **BASE_ENV,
        **(_cpu_env(plan, host.cores, ranks) if plan.inventory.device == "cpu" else {}),
        **(fabric_env(host, cuda=plan.inventory.device == "cuda", ucx_rdma=rdma) if several else {}),
        **({"HF_HUB_OFFLINE": "1"} if plan.model_path else {}),
        **given,
    }


def _cpu_env(plan: Plan, cores: int, ranks: int) -> dict[str, str]:
    """What served best without a GPU (docs/sources.md#cpu, 2 cores): one core is left to the API server."""
    return {
        "OMP_NUM_THREADS": str(max(1, (cores - 1) // ranks)),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        **({} if "kv_cache_memory_bytes" in plan.recipe.engine_args else _KV_CACHE),
        # One mask function would be compiled at the first step, for many seconds.
        "TORCHDYNAMO_DISABLE": "1",
        # Switches of our vLLM plugin: forked workers need no 6 s of imports each, and the first ones take a fifth less.
        "OVERSPAN_FORK_WORKERS": "1",
        "OVERSPAN_QUICK_IMPORTS": "1",
    }


_UCX_RDMA = re.compile(r"(^|,)(all|ib|rc|ud|dc|srd)", re.IGNORECASE)
"""Transports of UCX_TLS that use RDMA devices. Source: openucx.readthedocs.io, FAQ, list of transports."""

_CUDA_INTERFACES = ["NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "UCX_NET_DEVICES", "OMPI_MCA_btl_tcp_if_include"]


def fabric_env(host: Host, *, cuda: bool, ucx_rdma: bool = True) -> dict[str, str]:
    """Control and data traffic on the fabric, by this node's own names (docs/sources.md#two-sparks).

    `NCCL_IB_GID_INDEX` is left unset on purpose: it differs per HCA and drifts.
    """
    fabric = host.fabric
    if fabric is None:
        return {}
    env = {"VLLM_HOST_IP": fabric.address}
    by_interface = [] if not fabric.interface else ["GLOO_SOCKET_IFNAME", *(_CUDA_INTERFACES if cuda else [])]
    env |= dict.fromkeys(by_interface, fabric.interface)
    if not cuda:
        return env
    env |= {
        "NCCL_IGNORE_CPU_AFFINITY": "1",
        # Its log tells, after the start, whether RDMA or plain sockets carry the data.
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NET",
    }
    if fabric.hcas:
        env["NCCL_IB_HCA"] = _exactly(fabric.hcas, host)
    if ucx_rdma and (ucx := ucx_devices(host)):
        env["UCX_NET_DEVICES"] = ",".join(ucx)
    return env


def _exactly(hcas: list[str], host: Host) -> str:
    """NCCL takes each name for a beginning: mlx5_1 is mlx5_10 too, unless `=` stands before the list.

    Source: NCCL's user guide, NCCL_IB_HCA.
    """
    others = {nic.rdma_device for nic in host.nics if nic.rdma_device} - {name.split(":")[0] for name in hcas}
    starts = tuple(name.split(":")[0] for name in hcas)
    exact = not hcas[0].startswith(("=", "^")) and any(other.startswith(starts) for other in others)
    return ("=" if exact else "") + ",".join(hcas)


def ucx_devices(host: Host) -> list[str]:
    """UCX's devices: a name of RDMA is a device with its port. With an interface's name alone UCX uses TCP.

    Source: openucx.readthedocs.io, FAQ, "Which network devices does UCX use?".
    """
    fabric = host.fabric
    if fabric is None or fabric.ucx:
        return fabric.ucx if fabric else []
    if not fabric.hcas or fabric.hcas[0].startswith("^"):
        return [fabric.interface] if fabric.interface and not fabric.hcas else []
    ports = {nic.rdma_device: nic.rdma_port for nic in host.nics if nic.rdma_device}
    bare = [name.removeprefix("=") for name in fabric.hcas]
    return [name if ":" in name else f"{name}:{ports.get(name) or 1}" for name in bare]


SHARED_MEMORY = "2g"
"""Shared memory of a container on a CPU host: two ranks' message queues need some 500 MB, Docker's default is 64 MB."""


def node_process(plan: Plan, placed: Placement, **fields: Any) -> ProcessSpec:
    """The process of a placement, in its container where there is one. `fields`: the others of a ProcessSpec."""
    spec = ProcessSpec(name=placed.process, host=placed.host, ranks=placed.ranks, **fields)
    return contained(spec, plan, plan.host(placed.host))


def contained(spec: ProcessSpec, plan: Plan, host: Host) -> ProcessSpec:
    """The process as a container: its program in place of the image's own entrypoint, the model mounted read-only.

    The model lies at the same path on every host and in every container, so the arguments are the same everywhere.
    """
    if plan.engine.image is None:
        return spec
    mounts = [Mount(source=plan.model_path, target=plan.model_path)] if plan.model_path else []
    program, *arguments = patches.wrapped(spec.argv, plan.recipe.patches)
    changes = {
        "image": plan.engine.image,
        "entrypoint": program,
        "argv": arguments,
        "mounts": [*spec.mounts, *mounts],
        "docker_options": [*_device_options(plan, host), *(host.container.options if host.container else [])],
    }
    return spec.with_(**changes)


def _device_options(plan: Plan, host: Host) -> list[str]:
    """What a container needs for its device. Source: Avarok's MiniMax-M2.5 guide; RDMA: docs/sources.md."""
    if plan.inventory.device == "cpu":
        return ["--shm-size", SHARED_MEMORY]
    rdma = ["--device", "/dev/infiniband", "--ulimit", "memlock=-1"] if host.fabric and host.fabric.hcas else []
    return ["--gpus", "all", "--ipc", "host", *rdma]


def located(plan: Plan) -> Plan:
    """The plan with an address for each host: a placeholder where the launcher chooses the machines."""
    if not plan.inventory.traits.chooses_hosts:
        return plan
    hosts = [_located(host) for host in plan.inventory.hosts]
    return plan.with_(inventory=plan.inventory.with_(hosts=hosts))


def _located(host: Host) -> Host:
    interface = host.fabric.interface if host.fabric else ""
    hcas = host.fabric.hcas if host.fabric else []
    # Not validated: it stands for an address that only the job will know.
    ucx = host.fabric.ucx if host.fabric else []
    fabric = Fabric.model_construct(interface=interface, address=f"{{address:{host.name}}}", hcas=hcas, ucx=ucx, why=[])
    return host.with_(fabric=fabric)


def listens_on(plan: Plan, head: Host) -> str:
    """Where the API listens: the loopback of a node that a launcher chose would be out of everybody's reach."""
    if plan.inventory.traits.chooses_hosts and plan.recipe.host in LOOPBACKS:
        return address_of(head)
    return plan.recipe.host


def who_reaches(plan: Plan) -> str:
    """Who can use the endpoint, in words: `only processes of spark1`."""
    host = plan.host(plan.head)
    name = "this machine" if plan.inventory.is_here(host) else host.name
    if plan.recipe.host in EVERYWHERE:
        return f"every machine that can reach {name}, on any network"
    if plan.recipe.host not in LOOPBACKS:
        return f"every machine that can reach {plan.recipe.host} of {name}"
    if plan.inventory.traits.chooses_hosts:  # its loopback would be out of everybody's reach, see `listens_on`
        return f"every machine that can reach {name}, on the network between the hosts"
    tunnel = ", and those of this machine through a tunnel" if plan.endpoint.tunnel else ""
    return f"only processes of {name}{tunnel}"


def address_of(host: Host) -> str:
    """The address at which the other nodes reach this one. See `located` for hosts that Slurm chooses."""
    if host.fabric:
        return host.fabric.address
    return host.ssh.address if host.ssh else LOOPBACK
