"""Facts about the network: interfaces and addresses, link speed, RDMA devices."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from overspan.inventory.fact import Fact, Unreadable

MBIT: Final = 1_000_000

# Interfaces of containers, bridges and tunnels of other tools: their networks repeat on every host and join none.
OF_OTHERS: Final = re.compile(
    r"^(lo|docker\d*|br-[0-9a-f]{12}|virbr\d*(-nic)?|cni\d*|flannel.*|cali.*|ifb\d+|dummy\d+)$"
)


@dataclass(frozen=True)
class IpInterface:
    """One line of `ip addr`. Addresses are in CIDR notation; fe80 ones are left out.

    `parent`: what a VLAN stands on. `master`: the bond (or bridge) that it belongs to. `bonds`: it is a bond.
    """

    name: str
    mtu: int | None
    up: bool
    addresses: list[str]
    parent: str | None = None
    master: str | None = None
    bonds: bool = False


@dataclass(frozen=True)
class Hardware:
    """What sysfs knows of an interface. `physical` has a device behind it; a bridge or a veth has none."""

    speed_bits_per_s: int | None
    wifi: bool
    physical: bool


@dataclass(frozen=True)
class RdmaPort:
    """One port of an RDMA device and the interface that it shares. `active` means that its link is up."""

    device: str
    port: int
    interface: str | None
    active: bool
    state: str
    link_layer: Literal["Ethernet", "InfiniBand"] | None = None
    speed_bits_per_s: int | None = None


def parse_ip_addr(text: str) -> list[IpInterface]:
    """`ip -j addr`."""
    try:
        rows = json.loads(text)
    except ValueError:
        raise Unreadable(f"not JSON: {text.strip()[:60]!r}") from None
    if not isinstance(rows, list):
        raise Unreadable("not a list of interfaces")
    return [_interface(row) for row in rows if isinstance(row, dict) and isinstance(row.get("ifname"), str)]


def _interface(row: dict[str, Any]) -> IpInterface:
    state, flags = row.get("operstate"), row.get("flags")
    marks = flags if isinstance(flags, list) else []
    parent, master = row.get("link"), row.get("master")
    return IpInterface(
        name=row["ifname"],
        mtu=row["mtu"] if isinstance(row.get("mtu"), int) else None,
        up=state == "UP" or (state == "UNKNOWN" and "LOWER_UP" in marks),
        addresses=list(_addresses(row.get("addr_info"))),
        parent=parent if isinstance(parent, str) else None,
        master=master if isinstance(master, str) else None,
        bonds="MASTER" in marks,
    )


def _addresses(rows: Any) -> Iterable[str]:
    for row in rows if isinstance(rows, list) else []:
        try:
            address = ipaddress.ip_interface(f"{row['local']}/{row['prefixlen']}")
        except (ValueError, KeyError, TypeError):
            continue
        if not address.is_loopback and not (address.version == 6 and address.is_link_local):
            yield str(address)


def parse_net_sysfs(text: str) -> dict[str, Hardware]:
    """Lines `/sys/class/net/IF/speed:200000` (Mbit/s, -1 for unknown), `.../IF/device`, `.../IF/wireless`."""
    lines = [line for line in text.splitlines() if line.startswith("/sys/class/net/")]
    if text.strip() and not lines:
        raise Unreadable(text.strip().splitlines()[0][:80])
    speeds: dict[str, int] = {}
    marks: dict[str, set[str]] = {}
    for line in lines:
        name, _, entry = line.removeprefix("/sys/class/net/").partition("/")
        marks.setdefault(name, set()).add(entry.partition(":")[0])
        if speed := re.fullmatch(r"speed:(\d+)", entry):
            speeds[name] = int(speed[1]) * MBIT
    return {
        name: Hardware(
            speed_bits_per_s=speeds.get(name) or None,
            wifi=not seen.isdisjoint({"wireless", "phy80211"}),
            physical="device" in seen,
        )
        for name, seen in marks.items()
    }


def parse_ibdev2netdev(text: str) -> list[RdmaPort]:
    """Lines `rocep1s0f1 port 1 ==> enp1s0f1np1 (Up)`, with or without padding."""
    ports = []
    for line in text.strip().splitlines():
        found = re.fullmatch(r"(\S+)\s+port\s+(\d+)\s+==>\s+(\S+)\s+\((\w+)\)", line.strip())
        if found is None:
            raise Unreadable(line.strip()[:120])
        device, port, interface, state = found.groups()
        ports.append(RdmaPort(device, int(port), interface, active=state == "Up", state=state))
    return ports


def parse_rdma_sysfs(text: str) -> list[RdmaPort]:
    """Lines `.../DEV/ports/1/state:4: ACTIVE`, `.../link_layer:Ethernet`, `.../rate:400 Gb/sec (4X NDR)`, and
    `.../DEV/device/net/IF`.

    An InfiniBand port's interface, where it has one, is IPoIB's.
    """
    states: dict[tuple[str, int], dict[str, str]] = {}
    interfaces: dict[str, list[str]] = {}
    for line in text.splitlines():
        entry = line.removeprefix("/sys/class/infiniband/")
        if found := re.fullmatch(r"([^/]+)/ports/(\d+)/(state|link_layer|rate):(.*)", entry):
            states.setdefault((found[1], int(found[2])), {})[found[3]] = found[4].strip()
        elif found := re.fullmatch(r"([^/]+)/device/net/([^/]+)", entry):
            interfaces.setdefault(found[1], []).append(found[2])
        elif line.strip():
            raise Unreadable(line.strip()[:120])
    ports_of = {device: sum(1 for other, _ in states if other == device) for device, _ in states}
    return [
        RdmaPort(
            device=device,
            port=port,
            interface=_own_interface(sorted(interfaces.get(device, [])), port, ports_of[device]),
            active=found.get("state", "").endswith("ACTIVE"),
            state=found.get("state", "").partition(": ")[2] or "unknown",
            link_layer=_layer(found.get("link_layer")),
            speed_bits_per_s=_rate(found.get("rate", "")),
        )
        for (device, port), found in sorted(states.items())
    ]


def _own_interface(interfaces: list[str], port: int, ports: int) -> str | None:
    """A device of one port has its interface to itself; with several, they are listed in the order of the ports."""
    if ports == 1 or len(interfaces) < ports:
        return interfaces[0] if interfaces and ports == 1 else None
    return interfaces[port - 1]


def _layer(text: str | None) -> Literal["Ethernet", "InfiniBand"] | None:
    return "Ethernet" if text == "Ethernet" else "InfiniBand" if text == "InfiniBand" else None


def _rate(text: str) -> int | None:
    found = re.match(r"(\d+(?:\.\d+)?) Gb/sec", text)
    return int(float(found[1]) * 1e9) if found else None


def net_sysfs_argv(root: str = "/sys/class/net") -> list[str]:
    """One `find` for all interfaces. `speed` cannot be read while a link is down, which `grep -s` passes over."""
    marks = ["-name", "device", "-o", "-name", "wireless", "-o", "-name", "phy80211"]
    return ["find", "-L", root, "-mindepth", "2", "-maxdepth", "2",
            "(", *marks, ")", "-print", "-o", "-name", "speed", "-exec", "grep", "-sH", ".", "{}", "+"]  # fmt: skip


def rdma_sysfs_argv(root: str = "/sys/class/infiniband") -> list[str]:
    """One `find` for all devices, which does not walk into the PCI tree behind `device`."""
    return ["find", "-L", root, "-mindepth", "2", "-maxdepth", "4",
            "-path", "*/device/net/*", "-print", "-prune",
            "-o", "-path", "*/device/*", "!", "-name", "net", "-prune",
            "-o", "-name", "subsystem", "-prune",
            "-o", "-path", "*/ports/*/state", "-exec", "grep", "-sH", ".", "{}", "+",
            "-o", "-path", "*/ports/*/rate", "-exec", "grep", "-sH", ".", "{}", "+",
            "-o", "-path", "*/ports/*/link_layer", "-exec", "grep", "-sH", ".", "{}", "+"]  # fmt: skip


IP_ADDR = Fact("ip_addr", ["ip", "-j", "addr"], parse_ip_addr)
NET_SYSFS = Fact("net_sysfs", net_sysfs_argv(), parse_net_sysfs)
IBDEV2NETDEV = Fact("ibdev2netdev", ["ibdev2netdev"], parse_ibdev2netdev)
RDMA_SYSFS = Fact("rdma_sysfs", rdma_sysfs_argv(), parse_rdma_sysfs)
