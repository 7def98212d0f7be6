"""Which launcher a run has, and the way to its hosts."""

from __future__ import annotations

from overspan.launchers.base import Launcher
from overspan.launchers.docker import DockerLauncher
from overspan.launchers.local import LocalLauncher
from overspan.runs.folder import RunFolder
from overspan.schema.inventory import Host
from overspan.schema.plan import Plan
from overspan.transport.base import Transport
from overspan.transport.reach import reach


def hosts_of(plan: Plan) -> list[Host]:
    """The hosts on which this run starts ranks, the head first."""
    used = dict.fromkeys(placement.host for placement in plan.own)
    by_name = {host.name: host for host in plan.inventory.hosts}
    return [by_name[name] for name in used]


def transports_of(plan: Plan) -> dict[str, Transport]:
    """A way to each host that holds ranks; nothing is opened yet."""
    return {host.name: reach(host) for host in hosts_of(plan)}


def launcher_for(run: RunFolder, plan: Plan, transports: dict[str, Transport]) -> Launcher:
    """The launcher that the inventory asks for."""
    if plan.inventory.launcher == "docker":
        return DockerLauncher(run.id, transports, run.logs)
    return LocalLauncher(run.logs)
