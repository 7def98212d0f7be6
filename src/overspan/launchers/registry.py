"""Which launcher a run has, and the way to its hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from overspan.launchers.base import Launcher
from overspan.schema.inventory import Host, Inventory, Slurm
from overspan.schema.plan import Plan
from overspan.store.run_folder import RunFolder
from overspan.transport.base import Transport
from overspan.transport.reach import reach

# A plan is made without a launcher, and each is imported by the run that has it: `overspan plan` stays quick.
if TYPE_CHECKING:
    from overspan.launchers.docker import DockerLauncher
    from overspan.launchers.slurm import SlurmLauncher

LOGIN = "login"
"""The name of a Slurm's login node among the transports."""


def hosts_of(plan: Plan) -> list[Host]:
    """The hosts on which this run starts ranks, the head first."""
    used = dict.fromkeys(placement.host for placement in plan.own)
    by_name = {host.name: host for host in plan.inventory.hosts}
    return [by_name[name] for name in used]


def transports_of(plan: Plan) -> dict[str, Transport]:
    """A way to each host that holds ranks; under Slurm, to the login node alone. Nothing is opened yet."""
    if plan.inventory.launcher == "slurm":
        return {LOGIN: reach(login_of(plan.inventory))}
    return {host.name: reach(host) for host in hosts_of(plan)}


def launcher_for(run: RunFolder, plan: Plan, transports: dict[str, Transport]) -> Launcher:
    """The launcher that the inventory asks for."""
    if plan.inventory.launcher != "local":
        return finder_for(run, plan, transports)
    from overspan.launchers.local import LocalLauncher

    return LocalLauncher(run.logs)


def finder_for(run: RunFolder, plan: Plan, transports: Mapping[str, Transport]) -> DockerLauncher | SlurmLauncher:
    """What finds the processes that live outside of this machine's own, whoever started them."""
    if plan.inventory.launcher == "slurm":
        return slurm_launcher(run, plan, transports)
    from overspan.launchers.docker import DockerLauncher

    return DockerLauncher(run.id, transports, run.logs)


def slurm_of(plan: Plan) -> Slurm:
    """The site's settings; without any, Slurm's own defaults."""
    return plan.inventory.slurm or Slurm()


def login_of(inventory: Inventory) -> Host:
    """The machine that submits jobs."""
    return Host(name=LOGIN, memory_bytes=1, ssh=inventory.slurm.login if inventory.slurm else None)


def slurm_launcher(run: RunFolder, plan: Plan, transports: Mapping[str, Transport]) -> SlurmLauncher:
    """The launcher of a run under Slurm."""
    from overspan.launchers.slurm import SlurmLauncher
    from overspan.launchers.slurm_commands import Copy

    copy = Copy(plan.model_source, plan.model_path) if plan.model_source and plan.model_path else None
    return SlurmLauncher(run.id, slurm_of(plan), hosts_of(plan), transports[LOGIN], logs=run.logs, copy=copy)
