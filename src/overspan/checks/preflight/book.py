"""Every preflight check: its rule, what is expected, when it applies and what asking costs. Docs are made from this."""

from __future__ import annotations

from typing import Final

from overspan.checks.preflight import containers, fabric, machine, versions, weights
from overspan.checks.preflight.site import Check, GroupCheck, Rule, Site

COMMAND: Final = "one command"


def _cuda(site: Site) -> bool:
    return site.cuda


def _docker(site: Site) -> bool:
    return site.docker


def _several(site: Site) -> bool:
    return site.several


def _always(site: Site) -> bool:
    return True


SSH: Final = Rule("preflight.ssh", "the host answers over ssh", "one connection, kept")
HOST_KEY: Final = Rule("preflight.host_key", "the host's key is the known one", "nothing beside ssh")
"""These two come from opening the connection itself; see `overspan.checks.preflight.access`."""

CHECKS: Final = (
    Check("preflight.docker", "Docker answers", COMMAND, _docker, containers.docker),
    Check(
        "preflight.gpu_runtime",
        "Docker can give GPUs to containers",
        COMMAND,
        lambda site: site.docker and site.cuda,
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
    GroupCheck("preflight.model", "every host has the same model files", weights.COST, _several, weights.same_files),
)
