"""Every preflight check: its rule, what is expected, when it applies and what asking costs. Docs are made from this."""

from __future__ import annotations

from typing import Final

from overspan.preflight import containers, fabric, gpus, hub, inside, machine, names, settings, versions, weights
from overspan.preflight.site import Check, GroupCheck, Rule, Site

COMMAND: Final = "one command"
NOTHING: Final = "nothing: the plan is read"


def _cuda(site: Site) -> bool:
    return site.cuda


def _docker(site: Site) -> bool:
    return site.docker


def _in_containers(site: Site) -> bool:
    return site.docker and site.cuda


def _several(site: Site) -> bool:
    return site.several


def _always(site: Site) -> bool:
    return True


SSH: Final = Rule("preflight.ssh", "the host answers over ssh", "one connection, kept")
HOST_KEY: Final = Rule("preflight.host_key", "the host's key is the known one", "nothing beside ssh")
"""These two come from opening the connection itself; see `overspan.preflight.access`."""

CHECKS: Final = (
    Check("preflight.docker", "Docker answers", COMMAND, _docker, containers.docker),
    Check(
        "preflight.gpu_runtime",
        "Docker can give GPUs to containers",
        COMMAND,
        _in_containers,
        containers.gpu_runtime,
    ),
    Check("preflight.gpu", "the driver answers and has the plan's GPUs", COMMAND, _cuda, containers.gpus),
    Check(
        "preflight.interface",
        "the named interfaces are there, up, with the plan's address",
        COMMAND,
        _several,
        fabric.interfaces,
    ),
    Check(
        "preflight.hca",
        "the named RDMA devices are there and up",
        COMMAND,
        lambda site: site.several and bool(fabric.wanted_hcas(site)),
        fabric.hcas,
    ),
    Check(
        "preflight.reach",
        "the head reaches every host over the fabric",
        "three pings a host, 0.4 s",
        lambda site: site.several and site.is_head,
        fabric.reach,
    ),
    Check(
        "preflight.mtu",
        "packets of the interface's MTU arrive unsplit",
        "three pings a pair of hosts, 0.4 s",
        _several,
        fabric.mtu,
    ),
    Check(
        "preflight.memlock",
        "processes may lock the memory that RDMA registers",
        "one command; with Docker one container that ends at once",
        containers.locks_memory,
        containers.memlock,
    ),
    Check(
        "preflight.port",
        "the ports are free",
        COMMAND,
        lambda site: bool(machine.wanted_ports(site)),
        machine.ports,
    ),
    Check(
        "preflight.memory",
        "the memory that the engine claims is free",
        "one to three commands",
        _always,
        machine.memory,
    ),
    Check("preflight.disk", "the disk has room", "one to three commands", _always, machine.disk),
    Check("preflight.driver", "the driver is new enough for the image", COMMAND, _in_containers, gpus.driver),
    Check("preflight.nvswitch", "the GPUs have joined their NVSwitch fabric", COMMAND, _cuda, gpus.fabric_manager),
    Check("preflight.ecc", "no uncorrectable memory error of a GPU", COMMAND, _cuda, gpus.memory_errors),
    Check("preflight.xid", "the kernel's log has no fault of a GPU", COMMAND, _cuda, gpus.faults),
    Check(
        "preflight.p2p",
        "GPUs of one host read each other's memory",
        COMMAND,
        lambda site: site.cuda and len(site.gpus) > 1,
        gpus.peers,
    ),
    Check("preflight.imex", "the NVLink domain between hosts is up", "two commands", gpus.over_nvlink, gpus.imex),
    Check(
        "preflight.peermem",
        "DeepEP's RDMA can read GPU memory",
        COMMAND,
        gpus.wants_peer_memory,
        gpus.peer_memory,
    ),
    Check("preflight.container", "a container with the plan's options starts", inside.COST, _docker, inside.starts),
    Check("preflight.shm", "its shared memory is large enough", inside.COST, _docker, inside.shared_memory),
    Check("preflight.gpu_inside", "it sees the plan's GPUs", inside.COST, _in_containers, inside.sees_gpus),
    Check(
        "preflight.rdma_inside",
        "it has the RDMA devices",
        inside.COST,
        lambda site: _in_containers(site) and site.several and bool(fabric.wanted_hcas(site)),
        inside.sees_rdma,
    ),
    Check(
        "preflight.compiler", "the image can build Triton's launcher", inside.COST, _in_containers, inside.can_compile
    ),
    Check("preflight.nvcc", "the image has the CUDA compiler", inside.COST, _in_containers, inside.has_nvcc),
    Check(
        "preflight.ucx",
        "with prefill and decode apart: UCX knows CUDA memory",
        inside.COST,
        inside.disaggregated,
        inside.moves_gpu_memory,
    ),
    Check(
        "preflight.net_plugin",
        "on a Spark: the image brings no other network plugin of NCCL",
        inside.COST,
        lambda site: _in_containers(site) and any(gpu.kind == "gb10" for gpu in site.gpus),
        inside.net_plugin,
    ),
    Check(
        "preflight.engine_import",
        "the image's engine loads here and has code for these GPUs",
        inside.IMPORT_COST,
        _in_containers,
        inside.engine_imports,
    ),
    Check(
        "preflight.removeipc",
        "without containers, over ssh: shared memory outlives the session",
        COMMAND,
        lambda site: not site.docker and site.host.ssh is not None,
        names.keeps_ipc,
    ),
    Check(
        "preflight.gid",
        "each RDMA device has a RoCE v2 GID with an IPv4 address",
        COMMAND,
        lambda site: site.several and site.cuda and bool(fabric.wanted_hcas(site)),
        names.gids,
    ),
    Check(
        "preflight.hostname",
        "where Gloo is told no interface: the host's name is not a loopback address",
        "two commands",
        names.without_interface,
        names.own_name,
    ),
    Check(
        "preflight.hub",
        "the hub gives the model to this host and token",
        "one or two commands",
        hub.from_hub,
        hub.gives_model,
    ),
    Check(
        "preflight.cache",
        "the model cache may be written",
        COMMAND,
        lambda site: not site.docker and bool(site.host.model_cache),
        hub.cache_writable,
    ),
    Check(
        "preflight.weights",
        "no weight file of the head is missing or a Git LFS pointer",
        COMMAND,
        # The others are compared with the head's, and mended from there.
        lambda site: site.is_head and machine.model_folder(site) is not None,
        hub.whole_weights,
    ),
    Check(
        "preflight.native_version",
        "without Ray: the engine waits for workers of other hosts",
        NOTHING,
        lambda site: site.several and site.is_head and site.engine.waits_for_hosts_since is not None,
        settings.native_version,
    ),
    Check(
        "preflight.ray_memory",
        "Ray's memory monitor is off on unified memory",
        NOTHING,
        lambda site: bool(site.setting(settings.RAY_MONITOR)) and any(gpu.unified_memory for gpu in site.gpus),
        settings.ray_memory_monitor,
    ),
    Check(
        "preflight.all_reduce",
        "vLLM's own all-reduce is off where TP spans hosts of one NVLink domain",
        NOTHING,
        settings.tp_over_nvlink_hosts,
        settings.custom_all_reduce,
    ),
)

GROUP_CHECKS: Final = (
    GroupCheck("preflight.subnet", "all hosts are in one subnet", COMMAND, _several, fabric.subnet),
    GroupCheck("preflight.image", "every host has the same image", COMMAND, _docker, containers.same_image),
    GroupCheck(
        "preflight.engine_version",
        "every host has the same engine",
        COMMAND,
        lambda site: site.several and (not site.docker or site.plan.engine.environment is not None),
        versions.same_engine,
    ),
    GroupCheck("preflight.host_ip", "VLLM_HOST_IP is each host's own", NOTHING, _several, settings.own_addresses),
    GroupCheck("preflight.clock", "the hosts' clocks agree", COMMAND, _several, names.clocks),
    GroupCheck("preflight.model", "every host has the same model files", weights.COST, _several, weights.same_files),
)
