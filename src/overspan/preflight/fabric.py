"""The network between hosts: interfaces, RDMA devices and GIDs, one subnet, pings, whole packets, own names."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from overspan.engines.node import address_of
from overspan.inventory import network, probes
from overspan.inventory.fact import Capture, Fact, Seen, Unreadable
from overspan.preflight.facts import (
    OVER_HOSTS,
    HostFacts,
    check,
    failed,
    group_check,
    not_asked,
    passed,
    paste_on,
    side_by_side,
    unreadable,
)
from overspan.schema.errors import InputError
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host
from overspan.schema.paste import command

JUMBO_BYTES: Final = 9000
"""Source: docs/sources.md#two-sparks: MTU 9000, checked end to end with don't-fragment pings."""

SMALL_BYTES: Final = 84
"""A plain ping: 56 bytes of payload, its own default (ping(8)), and the headers."""

Interfaces = list[network.IpInterface]

_ROOT: Final = "/sys/class/infiniband"
_MAPPED: Final = "0000:0000:0000:0000:0000:ffff:"


def wanted_interfaces(host: HostFacts) -> dict[str, str]:
    """Interfaces that this host's processes will be told to use, and who tells them."""
    wanted = {host.entry.fabric.interface: "fabric.interface"} if host.entry.fabric else {}
    for spec in host.specs:
        gloo, nccl = spec.env.get("GLOO_SOCKET_IFNAME"), spec.env.get("NCCL_SOCKET_IFNAME", "")
        if gloo:
            wanted.setdefault(gloo, "GLOO_SOCKET_IFNAME")
        for name in [] if nccl.startswith("^") else nccl.split(","):
            if name:
                wanted.setdefault(name, "NCCL_SOCKET_IFNAME")
    return wanted


@check("preflight.interface", when=OVER_HOSTS)
def interfaces(host: HostFacts) -> Iterator[Finding]:
    """The named interfaces are there, up, with the plan's address."""
    there, capture = host.read(network.IP_ADDR)
    wanted = wanted_interfaces(host)
    if not wanted:
        yield unreadable(capture, f"the inventory names no fabric for {host.name}", fix=host.detect())
    for name, by in wanted.items():
        yield _interface(host, there, name, by, capture)


def _interface(host: HostFacts, there: Interfaces, name: str, by: str, capture: Capture) -> Finding:
    exact = by != "NCCL_SOCKET_IFNAME" or name.startswith("=")
    bare = name.removeprefix("=")
    found = [one for one in there if one.name == bare or (not exact and one.name.startswith(bare))]
    if not found:
        told = _told(there)
        cause = f"{host.name} has no interface {bare} (from {by}); it has {told}"
        return failed(capture, told, cause=cause, fix=_rename(host, there, by))
    if not any(one.up for one in found):
        fix = host.paste("sudo", "ip", "link", "set", found[0].name, "up") + "   and look at the cable"
        return failed(capture, _told(found), cause=f"interface {found[0].name} of {host.name} is down", fix=fix)
    fabric = host.entry.fabric
    if by == "fabric.interface" and fabric and not any(_has(one, fabric.address) for one in found):
        cause = f"interface {bare} of {host.name} does not have the address {fabric.address}; it has "
        cause += ", ".join(found[0].addresses) or "none"
        return failed(capture, _told(found), cause=cause, fix=host.detect())
    return passed(capture, _told(found))


def _rename(host: HostFacts, there: Interfaces, by: str) -> str:
    """The interface with the plan's own address is most likely the one that was meant."""
    fabric = host.entry.fabric
    right = next((one.name for one in there if fabric and _has(one, fabric.address)), None)
    if right is None:
        return host.detect()
    name = command(right)
    if by == "fabric.interface":
        return f"in the inventory, host {host.name}: set fabric.interface to {name}, which has the plan's address"
    return f"take {by} out of env: host {host.name} uses {name} by itself"


def _has(interface: network.IpInterface, wanted: str) -> bool:
    return any(each.split("/")[0] == wanted for each in interface.addresses)


def _told(there: Iterable[network.IpInterface]) -> str:
    own = [one for one in there if not network.OF_OTHERS.match(one.name)]
    return ", ".join(
        f"{one.name} ({', '.join(one.addresses) or 'no address'}, {'up' if one.up else 'down'})" for one in own
    )


def wanted_hcas(host: HostFacts) -> list[str]:
    """The RDMA devices that NCCL is told to use here."""
    values = [spec.env.get("NCCL_IB_HCA", "") for spec in host.specs]
    values += [",".join(host.entry.fabric.hcas)] if host.entry.fabric else []
    names = [name for value in values if not value.startswith("^") for name in value.split(",") if name]
    return list(dict.fromkeys(names))


def rdma_over_hosts(host: HostFacts) -> bool:
    """The plan spans hosts, and NCCL is told RDMA devices."""
    return host.several and bool(wanted_hcas(host))


@check("preflight.hca", when=rdma_over_hosts)
def hcas(host: HostFacts) -> Iterator[Finding]:
    """The named RDMA devices are there and up. NCCL passes over a wrong name in silence."""
    there, capture = host.read(network.RDMA_SYSFS)
    for name in wanted_hcas(host):
        bare = name.removeprefix("=").split(":")[0]
        ports = [port for port in there if port.device == bare or port.device.startswith(bare)]
        told = ", ".join(f"{port.device} ({port.state})" for port in ports or there) or "no RDMA device"
        if any(port.active for port in ports):
            yield passed(capture, told)
        elif ports:
            fix = host.paste("ibdev2netdev") + "   and look at the cable"
            yield failed(capture, told, cause=f"the link of {bare} on {host.name} is not up", fix=fix)
        else:
            cause = f"{host.name} has no RDMA device {bare}: NCCL would use sockets without a word. It has {told}"
            yield failed(capture, told, cause=cause, fix=host.detect())


@group_check("preflight.subnet", when=OVER_HOSTS)
def subnet(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """All hosts are in one subnet. By the prefixes that the hosts really have."""
    first: tuple[str, str] | None = None
    for host, (seen, capture) in side_by_side(hosts, lambda host: host.look(network.IP_ADDR)):
        mine = address_of(host.entry)
        own = _network(mine, seen.value or [])
        if own is None:
            yield host.name, unreadable(capture, seen.why or f"{host.name} has no interface with the address {mine}")
            continue
        first = first or (host.name, own)
        told = f"{mine} in {own}"
        cause = f"{host.name} is in {own}, {first[0]} in {first[1]}: traffic would leave the cable, or find no way"
        same = own == first[1]
        yield host.name, passed(capture, told) if same else failed(capture, told, cause=cause, fix=host.detect())


def _network(wanted: str, there: Interfaces) -> str | None:
    cidrs = (cidr for one in there for cidr in one.addresses if cidr.split("/")[0] == wanted)
    return next((str(ipaddress.ip_interface(cidr).network) for cidr in cidrs), None)


@check("preflight.reach", when=lambda host: host.several and host.is_head, cost="three pings a host, 0.4 s")
def reach(host: HostFacts) -> list[Finding]:
    """The head reaches every host over the fabric."""
    return [_ping(host, other, SMALL_BYTES) for other in host.hosts if other.name != host.name]


@check("preflight.mtu", when=OVER_HOSTS, cost="three pings a pair of hosts, 0.4 s")
def mtu(host: HostFacts) -> Iterator[Finding]:
    """Packets of the interface's MTU arrive unsplit."""
    seen, capture = host.look(network.IP_ADDR)
    mine = address_of(host.entry)
    found = next((one for one in seen.value or [] if _has(one, mine)), None)
    if found is None or found.mtu is None:
        yield unreadable(capture, seen.why or f"the MTU of {host.name}'s interface with {mine} is not known")
        return
    for other in host.hosts:
        if other.name != host.name:
            yield _ping(host, other, found.mtu)
    if found.mtu < JUMBO_BYTES and any(nic.rdma_device and nic.interface == found.name for nic in host.entry.nics):
        cause = f"{found.name} of {host.name} has MTU {found.mtu}: RoCE carries less than it can below {JUMBO_BYTES}"
        fix = host.paste("sudo", "ip", "link", "set", found.name, "mtu", str(JUMBO_BYTES)) + "   on every host"
        yield failed(capture, f"mtu {found.mtu}", cause=cause, fix=fix, severity="warning")


def _ping(host: HostFacts, other: Host, size: int) -> Finding:
    target = address_of(other)
    try:
        seen, capture = host.look(probes.ping(target, size))
    except InputError as error:
        return not_asked(f"{other.name} is known by name only: {error.what}")
    if seen.value is None:
        return _no_ping(host, other, capture, seen)
    told = f"{seen.value.received} of {seen.value.sent} packets of {size} bytes came back from {target}"
    if seen.value.received == seen.value.sent:
        return passed(capture, told)
    if size == SMALL_BYTES:
        cause = f"{other.name} ({target}) does not answer {host.name} over the fabric: "
        cause += "a cable, an address or a firewall"
        return failed(capture, told, cause=cause, fix=host.paste("ip", "route", "get", target))
    cause = f"packets of {size} bytes, the MTU of {host.name}, do not reach {other.name} ({target}) whole: its "
    cause += "interface, or a switch between, has a smaller MTU; RDMA then fails with IBV_WC_RETRY_EXC_ERR(12)"
    interface = other.fabric.interface if other.fabric else "INTERFACE"
    fix = paste_on(other, "sudo", "ip", "link", "set", interface, "mtu", str(size))
    return failed(capture, told, cause=cause, fix=fix)


def _no_ping(host: HostFacts, other: Host, capture: Capture, seen: Seen[probes.Ping]) -> Finding:
    if seen.absent:
        return unreadable(capture, seen.why, fix=host.paste("sudo", "apt-get", "install", "iputils-ping"))
    if re.search(r"unreachable|invalid argument", seen.why, re.IGNORECASE):
        cause = f"{host.name} has no way to {other.name} ({address_of(other)}): {seen.why}"
        return failed(capture, seen.why, cause=cause, fix=host.paste("ip", "addr"))
    return unreadable(capture, seen.why)


def parse_gids(text: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Of each device, by index: the type and the GID. `grep -rs .` of `gid_attrs/types` and `gids`, file:content."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for line in text.splitlines():
        said = re.match(rf"{_ROOT}/([^/]+)/ports/\d+/(gids|gid_attrs/types)/(\d+):(.*)", line)
        if said is None:
            raise Unreadable(line[:120])
        device, which, index, value = said.groups()
        kind, gid = found.setdefault(device, {}).get(int(index), ("", ""))
        found[device][int(index)] = (kind, value) if which == "gids" else (value, gid)
    return found


def ipv4(gid: str) -> str | None:
    """The IPv4 address that a RoCE GID holds: ...:ffff:0a0a:0a01."""
    if not gid.startswith(_MAPPED):
        return None
    digits = gid.removeprefix(_MAPPED).replace(":", "")
    return ".".join(str(int(digits[at : at + 2], 16)) for at in range(0, 8, 2))


@check("preflight.gid", when=lambda host: host.cuda and rdma_over_hosts(host))
def gids(host: HostFacts) -> list[Finding]:
    """Each RDMA device has a RoCE v2 GID with an IPv4 address. At the index that NCCL is told, if it is told one."""
    names = [name.removeprefix("=").split(":")[0] for name in wanted_hcas(host)]
    names = [name for name in names if re.fullmatch(r"\w[\w-]*", name)]
    places = [f"{_ROOT}/{name}/ports/1/{part}" for name in names for part in ("gid_attrs/types", "gids")]
    seen, capture = host.read(Fact("gids", ["grep", "-rs", ".", *places], parse_gids))
    told = host.setting("NCCL_IB_GID_INDEX")
    return [_gid(host, name, seen.get(name, {}), told[0] if told else None, capture) for name in names]


def _gid(host: HostFacts, name: str, table: dict[int, tuple[str, str]], told: str | None, capture: Capture) -> Finding:
    if not any("RoCE" in kind for kind, _ in table.values()):
        return passed(capture, f"{name}: InfiniBand, whose GIDs need no address")
    right = {index: ipv4(gid) for index, (kind, gid) in table.items() if "v2" in kind and ipv4(gid)}
    index = int(told) if told and told.isdigit() else None
    if right and (index is None or index in right):
        shown = next(iter(right)) if index is None else index
        return passed(capture, f"{name}: RoCE v2 with {right[shown]} at index {shown}")
    has = ", ".join(f"{at} ({address})" for at, address in right.items()) or "none"
    if index is not None:
        cause = f"NCCL_IB_GID_INDEX={told}, and at {name} of {host.name} RoCE v2 with an IPv4 address is at: {has}"
        fix = "take NCCL_IB_GID_INDEX out of env: NCCL 2.21 and newer finds it, and it differs per device"
    else:
        cause = f"{name} of {host.name} has no RoCE v2 GID with an IPv4 address: its interface has none, or lost it"
        fix = host.paste("ip", "-br", "addr") + "   give the interface of each device an address, on every host"
    return failed(capture, f"RoCE v2 with IPv4: {has}", cause=cause, fix=fix)


def without_interface(host: HostFacts) -> bool:
    """Whether Gloo is left to find its address by the host's own name."""
    return host.several and any(not spec.env.get("GLOO_SOCKET_IFNAME") for spec in host.specs)


@check("preflight.hostname", when=without_interface, cost="two commands")
def own_name(host: HostFacts) -> Finding:
    """Where Gloo is told no interface: the host's name is not a loopback address."""
    name, _ = host.read(Fact("hostname", ["hostname"], str.strip))
    seen, capture = host.look(Fact("own_name", ["getent", "hosts", name], str.split))
    if not seen.value:
        return unreadable(capture, seen.why or f"{name} is in no table of names")
    address = seen.value[0]
    if not address.startswith("127.") and address != "::1":
        return passed(capture, f"{name} is {address}")
    cause = f"{name} is {address} on {host.name}, and no GLOO_SOCKET_IFNAME is set: Gloo gives that to the others"
    fix = f"fabric.interface for host {host.name} in the inventory, or "
    fix += f"{address_of(host.entry)} for its name in /etc/hosts"
    return failed(capture, f"{name} is {address}", cause=cause, fix=fix)
