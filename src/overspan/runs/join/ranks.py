"""Which host of an inventory this machine is, and what of a plan it carries out by itself."""

from __future__ import annotations

import platform
from typing import Literal

from overspan.engines.node import address_of
from overspan.schema.defaults import EVERYWHERE
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import Plan

Part = Literal["head", "joiner"]
"""What of a plan over several hosts is started here, where each host starts its own ranks."""

_LOOPBACK = ("127.", "::1")


def own_addresses() -> set[str]:
    """The addresses by which others may know this machine."""
    import psutil  # a plan that is carried out from elsewhere does without

    found = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    return {address for address in found if not address.startswith(_LOOPBACK)}


def at_home(inventory: Inventory, addresses: set[str] | None = None) -> tuple[Inventory, str]:
    """The inventory with this machine's own entry reached without ssh, and that entry's name.

    Raises:
        InputError: this machine is none of its hosts, or a host has no address on the fabric.
    """
    mine = own_addresses() if addresses is None else addresses
    me = next((host for host in inventory.hosts if _known_as(host) & mine), None)
    me = me or next((host for host in inventory.hosts if host.name == platform.node() and host.fabric is None), None)
    if me is None:
        here = ", ".join(sorted(mine)) or "no address"
        hosts = ", ".join(f"{host.name} ({', '.join(sorted(_known_as(host))) or '?'})" for host in inventory.hosts)
        raise InputError(
            f"this machine ({here}) is not a host of {inventory.name}; its hosts: {hosts}",
            next="run this on one of them, or put this machine's address into the inventory",
        )
    for host in inventory.hosts:
        if host.fabric is None:
            raise InputError(
                f"host {host.name} of {inventory.name} has no fabric, so the other hosts do not know its address",
                next="overspan detect --hosts A,B, or add `fabric: {interface: ..., address: ...}`",
            )
    hosts_now = [host.with_(ssh=None) if host is me else host for host in inventory.hosts]
    return inventory.with_(hosts=hosts_now), me.name


def _known_as(host: Host) -> set[str]:
    given = {host.fabric.address} if host.fabric else set()
    given |= {host.ssh.address} if host.ssh else set()
    given |= {address.partition("/")[0] for nic in host.nics for address in nic.addresses}
    return {address for address in given if not address.startswith(_LOOPBACK)}


def part_of(plan: Plan, me: str, part: Part) -> Plan:
    """The plan as one of its hosts carries it out.

    Raises:
        PlanRefused: this host has no such part in it.
    """
    hosts = list(dict.fromkeys(each.host for each in plan.placements))
    reason = None
    if len(hosts) == 1:
        reason = f"all ranks of {plan.layout.label} are on {hosts[0]}: nothing is left for others to start"
    elif me not in hosts:
        reason = f"this machine is {me}, which has no rank; ranks are on {', '.join(hosts)}"
    elif part == "head" and me != plan.head:
        reason = f"this machine is {me}, and the head is {plan.head}: start there, and join from here"
    elif part == "joiner" and me == plan.head:
        reason = f"this machine is {me}, the head itself: it starts the run with `overspan up --join-later`"
    if reason is not None:
        raise PlanRefused("this machine starts nothing of this plan:", [reason])
    endpoint = plan.endpoint
    if part == "joiner":
        head = plan.host(plan.head)
        host = address_of(head) if plan.recipe.host in EVERYWHERE else plan.recipe.host
        endpoint = endpoint.with_(host=host, port=plan.recipe.port, tunnel=False)
    return plan.with_(part=me, endpoint=endpoint)
