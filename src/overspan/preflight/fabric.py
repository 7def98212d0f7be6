"""The network between hosts: interfaces and RDMA devices by name, one subnet, every host reached, whole packets."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.engines.node import address_of
from overspan.inventory import network, probes
from overspan.inventory.fact import Capture
from overspan.preflight.containers import address
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold
from overspan.schema.errors import InputError
from overspan.schema.inventory import Host

JUMBO_BYTES: Final = 9000
"""Source: docs/sources.md#two-sparks: MTU 9000, checked end to end with don't-fragment pings."""

SMALL_BYTES: Final = 84
"""A plain ping: 56 bytes of payload, its own default (ping(8)), and the headers."""

Interfaces = list[network.Interface]


def wanted_interfaces(site: Site) -> dict[str, str]:
    """Interfaces that this host's processes will be told to use, and who tells them."""
    wanted = {site.host.fabric.interface: "fabric.interface"} if site.host.fabric else {}
    for spec in site.specs:
        gloo, nccl = spec.env.get("GLOO_SOCKET_IFNAME"), spec.env.get("NCCL_SOCKET_IFNAME", "")
        if gloo:
            wanted.setdefault(gloo, "GLOO_SOCKET_IFNAME")
        for name in [] if nccl.startswith("^") else nccl.split(","):
            if name:
                wanted.setdefault(name, "NCCL_SOCKET_IFNAME")
    return wanted


def interfaces(site: Site) -> list[Verdict]:
    """Every interface that is named for this host is there, up, and has the address that the plan uses."""
    seen, capture = site.look(network.IP_ADDR)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    wanted = wanted_interfaces(site)
    if not wanted:
        return [unknown(capture, f"the inventory names no fabric for {site.name}", fix=_detect(site))]
    return [_interface(site, seen.value, name, by, capture) for name, by in wanted.items()]


def _interface(site: Site, there: Interfaces, name: str, by: str, capture: Capture) -> Verdict:
    exact = by != "NCCL_SOCKET_IFNAME" or name.startswith("=")
    bare = name.removeprefix("=")
    found = [one for one in there if one.name == bare or (not exact and one.name.startswith(bare))]
    if not found:
        told = _told(there)
        cause = f"{site.name} has no interface {bare} (from {by}); it has {told}"
        return bad(capture, told, cause=cause, fix=_rename(site, there, by))
    if not any(one.up for one in found):
        fix = site.paste("sudo", "ip", "link", "set", found[0].name, "up") + "   and look at the cable"
        return bad(capture, _told(found), cause=f"interface {found[0].name} of {site.name} is down", fix=fix)
    fabric = site.host.fabric
    if by == "fabric.interface" and fabric and not any(_has(one, fabric.address) for one in found):
        cause = f"interface {bare} of {site.name} does not have the address {fabric.address}; it has "
        cause += ", ".join(found[0].addresses) or "none"
        return bad(capture, _told(found), cause=cause, fix=_detect(site))
    return good(capture, _told(found))


def _rename(site: Site, there: Interfaces, by: str) -> str:
    """The interface with the plan's own address is most likely the one that was meant."""
    fabric = site.host.fabric
    right = next((one.name for one in there if fabric and _has(one, fabric.address)), None)
    if right is None:
        return _detect(site)
    if by == "fabric.interface":
        return f"in the inventory, host {site.name}: set fabric.interface to {right}, which has the plan's address"
    return f"take {by} out of env: host {site.name} uses {right} by itself"


def _detect(site: Site) -> str:
    names = ",".join(address(Site(site.plan, host, site.hosts, (), site.transport)) for host in site.hosts)
    return f"overspan detect --hosts {names} > inventory.yaml"


def _has(interface: network.Interface, wanted: str) -> bool:
    return any(each.split("/")[0] == wanted for each in interface.addresses)


def _told(there: Iterable[network.Interface]) -> str:
    own = [one for one in there if not network.OF_OTHERS.match(one.name)]
    return ", ".join(
        f"{one.name} ({', '.join(one.addresses) or 'no address'}, {'up' if one.up else 'down'})" for one in own
    )


def wanted_hcas(site: Site) -> list[str]:
    """The RDMA devices that NCCL is told to use here."""
    values = [spec.env.get("NCCL_IB_HCA", "") for spec in site.specs]
    values += [",".join(site.host.fabric.hcas)] if site.host.fabric else []
    names = [name for value in values if not value.startswith("^") for name in value.split(",") if name]
    return list(dict.fromkeys(names))


def hcas(site: Site) -> list[Verdict]:
    """Every RDMA device that is named is there with its link up: NCCL passes over a wrong name in silence."""
    seen, capture = site.look(network.RDMA_SYSFS)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    verdicts = []
    for name in wanted_hcas(site):
        bare = name.removeprefix("=").split(":")[0]
        ports = [port for port in seen.value if port.device == bare or port.device.startswith(bare)]
        told = ", ".join(f"{port.device} ({port.state})" for port in ports or seen.value) or "no RDMA device"
        if not ports:
            cause = f"{site.name} has no RDMA device {bare}: NCCL would use sockets without a word. It has {told}"
            verdicts.append(bad(capture, told, cause=cause, fix=_detect(site)))
        elif not any(port.active for port in ports):
            cause = f"the link of {bare} on {site.name} is not up"
            verdicts.append(
                bad(capture, told, cause=cause, fix=site.paste("ibdev2netdev") + "   and look at the cable")
            )
        else:
            verdicts.append(good(capture, told))
    return verdicts


def subnet(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """The fabric addresses of all hosts lie in one network, by the prefixes that the hosts really have."""
    with ThreadPoolExecutor(len(sites)) as pool:
        seen = list(pool.map(lambda site: site.look(network.IP_ADDR), sites))
    networks: dict[str, str] = {}
    verdicts: list[tuple[str, Verdict]] = []
    for site, (found, capture) in zip(sites, seen, strict=True):
        own = _network(site.host, found.value or [])
        if own is None:
            why = found.why or f"{site.name} has no interface with the address {address_of(site.host)}"
            verdicts.append((site.name, unknown(capture, why)))
            continue
        networks[site.name] = own
        first = next(iter(networks))
        if own == networks[first]:
            verdicts.append((site.name, good(capture, f"{address_of(site.host)} in {own}")))
            continue
        cause = f"{site.name} is in {own}, {first} in {networks[first]}: traffic would leave the cable, or find no way"
        verdicts.append((site.name, bad(capture, f"{address_of(site.host)} in {own}", cause=cause, fix=_detect(site))))
    return verdicts


def _network(host: Host, there: Interfaces) -> str | None:
    wanted = address_of(host)
    for cidr in (each for one in there for each in one.addresses):
        if cidr.split("/")[0] == wanted:
            return str(ipaddress.ip_interface(cidr).network)
    return None


def reach(site: Site) -> list[Verdict]:
    """The head's fabric address reaches that of each other host."""
    return [_ping(site, other, SMALL_BYTES) for other in site.hosts if other.name != site.name]


def mtu(site: Site) -> list[Verdict]:
    """Packets as long as this host's interface allows arrive at every other host unsplit."""
    seen, capture = site.look(network.IP_ADDR)
    mine = address_of(site.host)
    found = next((one for one in seen.value or [] if _has(one, mine)), None)
    if found is None or found.mtu is None:
        return [unknown(capture, seen.why or f"the MTU of {site.name}'s interface with {mine} is not known")]
    verdicts = [_ping(site, other, found.mtu) for other in site.hosts if other.name != site.name]
    rdma = any(nic.rdma_device and nic.interface == found.name for nic in site.host.nics)
    if rdma and found.mtu < JUMBO_BYTES:
        cause = f"{found.name} of {site.name} has MTU {found.mtu}: RoCE carries less than it can below {JUMBO_BYTES}"
        fix = site.paste("sudo", "ip", "link", "set", found.name, "mtu", str(JUMBO_BYTES)) + "   on every host"
        verdicts.append(bad(capture, f"mtu {found.mtu}", cause=cause, fix=fix, severity="warning"))
    return verdicts


def _ping(site: Site, other: Host, size: int) -> Verdict:
    target = address_of(other)
    try:
        fact = probes.ping(target, size)
    except InputError as error:
        return untold(f"{other.name} is known by name only: {error.what}")
    seen, capture = site.look(fact)
    if seen.value is None:
        return _no_ping(site, other, capture, seen.why, seen.absent)
    ping = seen.value
    told = f"{ping.received} of {ping.sent} packets of {size} bytes came back from {target}"
    if ping.received == ping.sent:
        return good(capture, told)
    if size == SMALL_BYTES:
        cause = (
            f"{other.name} ({target}) does not answer {site.name} over the fabric: a cable, an address or a firewall"
        )
        return bad(capture, told, cause=cause, fix=site.paste("ip", "route", "get", target))
    cause = f"packets of {size} bytes, the MTU of {site.name}, do not reach {other.name} ({target}) whole: its "
    cause += "interface, or a switch between, has a smaller MTU; RDMA then fails with IBV_WC_RETRY_EXC_ERR(12)"
    return bad(capture, told, cause=cause, fix=_same_mtu(site, other, size))


def _same_mtu(site: Site, other: Host, size: int) -> str:
    there = Site(site.plan, other, site.hosts, (), site.transport)
    interface = other.fabric.interface if other.fabric else "INTERFACE"
    return there.paste("sudo", "ip", "link", "set", interface, "mtu", str(size))


def _no_ping(site: Site, other: Host, capture: Capture, why: str, absent: bool) -> Verdict:
    if absent:
        return unknown(capture, why, fix=site.paste("sudo", "apt-get", "install", "iputils-ping"))
    if re.search(r"unreachable|invalid argument", why, re.IGNORECASE):
        cause = f"{site.name} has no way to {other.name} ({address_of(other)}): {why}"
        return bad(capture, why, cause=cause, fix=site.paste("ip", "addr"))
    return unknown(capture, why)
