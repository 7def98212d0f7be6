"""What is chosen from what was found, each choice with its reason: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overspan.inventory.host import has_gpus, other_domain
from overspan.inventory.software import DOCKER
from overspan.schema.inventory import DeviceKind, Fabric, Host, Link, Nic

FABRIC_MTU: Final = 9000
"""What RoCE wants for its 4096-byte path MTU. Source: docs/sources.md#two-sparks, NVIDIA DGX Spark playbooks."""

SLOW: Final = "10-20x slower than RDMA (source: github.com/mark-ramsey-ri/vllm-dgx-spark, README)"

RING_ENV: Final = {"NCCL_IB_SUBNET_AWARE_ROUTING": "1", "NCCL_IB_MERGE_NICS": "0", "NCCL_NET_PLUGIN": "none"}
"""For cables that join one pair of hosts each. Source: NVIDIA/dgx-spark-playbooks, spark_cluster_setup.py (ring)."""


@dataclass(frozen=True)
class End:
    """One address of one interface of one host."""

    host: str
    nic: Nic
    address: str

    @property
    def rank(self) -> tuple[bool, bool, int, bool, str]:
        """How fit it is to carry the model's traffic, greatest first: RDMA, wired, fast, the first of the twins."""
        nic = self.nic
        return (is_rdma(nic), not nic.wifi, nic.speed_bits_per_s or 0, not other_domain(nic.interface), nic.interface)


@dataclass(frozen=True)
class Choices:
    """Everything that was chosen for a group of hosts."""

    hosts: list[Host]
    launcher: str
    device: DeviceKind
    links: list[Link]
    env: dict[str, str]
    why: dict[str, str]
    warnings: list[str]


def is_rdma(nic: Nic) -> bool:
    """Whether the interface shares an RDMA port whose link is up."""
    return nic.rdma_device is not None and nic.rdma_state in ("Up", "ACTIVE")


def choose(hosts: Sequence[Host]) -> Choices:
    """Choose launcher, device and each host's fabric."""
    launcher, why_launcher = _launcher(hosts)
    device, why_device = _device(hosts)
    why = {"launcher": why_launcher, "device": why_device}
    if len(hosts) == 1:
        return Choices(list(hosts), launcher, device, [], {}, why, _warnings_of(hosts))
    networks = _networks(hosts)
    links = [_link(network, ends) for network, ends in networks.items()]
    common = {net: ends for net, ends in networks.items() if len(ends) == len(hosts)}
    why["fabric"] = _why_fabric(hosts, networks, common)
    why["gid_index"] = "left unset: it differs from HCA to HCA and changes over time, and NCCL finds it by itself"
    ring = _pairs_by_cable(hosts, networks)
    env = RING_ENV if ring else {}
    if ring:
        why["env"] = (
            "each cable joins one pair of hosts: NCCL must choose the port by the subnet (NCCL 2.30 or later), and "
            "must not merge ports that lead to different hosts"
        )
    layer = _layer(hosts, networks)
    data = {net: ends for net, ends in common.items() if not any(_of_storage(end.nic, layer) for end in ends.values())}
    chosen = max((data or common).values(), key=_fitness) if common else _own_addresses(hosts)
    joined = [_with_fabric(host, chosen.get(host.name), networks, layer, ring=ring) for host in hosts]
    warnings = _warnings_of(hosts) + _warnings_between(joined, chosen, bool(common), networks)
    return Choices(joined, launcher, device, links, env, why, warnings)


def _launcher(hosts: Sequence[Host]) -> tuple[str, str]:
    if len(hosts) == 1 and hosts[0].ssh is None:
        return "local", "one host, this machine: processes are started directly"
    without = [host.name for host in hosts if host.container is None]
    if without:
        return "docker", f"hosts over ssh need a container engine, and none answers on {', '.join(without)}"
    return "docker", "a Docker engine answers on every host"


def _device(hosts: Sequence[Host]) -> tuple[DeviceKind, str]:
    unread = [host.name for host in hosts if has_gpus(host) and not host.gpus]
    without = [host.name for host in hosts if not has_gpus(host)]
    if len(without) == len(hosts):
        return "cpu", f"no GPU was found on {', '.join(without)}"
    told = [f"{', '.join(unread)} has, or may have, GPUs that could not be read" if unread else ""]
    told += [f"no GPU was found on {', '.join(without)}" if without else ""]
    reason = "; ".join(filter(None, told))
    return "cuda", f"{reason}: `device: cpu` plans for the CPUs" if reason else "every host has a GPU"


def _networks(hosts: Sequence[Host]) -> dict[str, dict[str, End]]:
    """Network -> host -> its fittest end there, for networks that join at least two hosts.

    An address that stands on two hosts joins nothing: it is not reachable from both.
    """
    shared = _on_two_hosts(hosts)
    networks: dict[str, dict[str, End]] = {}
    for end in (end for host in hosts for end in _ends(host)):
        if _ip(end.address) in shared:
            continue
        members = networks.setdefault(str(ipaddress.ip_interface(end.address).network), {})
        if end.host not in members or end.rank > members[end.host].rank:
            members[end.host] = end
    return {network: members for network, members in networks.items() if len(members) > 1}


def _ends(host: Host) -> list[End]:
    return [End(host.name, nic, address) for nic in host.nics if nic.up for address in nic.addresses]


def _on_two_hosts(hosts: Sequence[Host]) -> dict[str, list[str]]:
    """Address -> the hosts that all have it: one machine named twice, or an address given out twice."""
    owners: dict[str, list[str]] = {}
    for host in hosts:
        for address in {_ip(end.address) for end in _ends(host)}:
            owners.setdefault(address, []).append(host.name)
    return {address: names for address, names in owners.items() if len(names) > 1}


def _ip(address: str) -> str:
    return address.partition("/")[0]


def _fitness(members: dict[str, End]) -> tuple[bool, bool, int, bool, bool, str]:
    ends = members.values()
    return (
        all(is_rdma(end.nic) for end in ends),
        not any(end.nic.wifi for end in ends),
        min(end.nic.speed_bits_per_s or 0 for end in ends),
        not any(other_domain(end.nic.interface) for end in ends),
        not any(ipaddress.ip_interface(end.address).is_link_local for end in ends),
        min(end.nic.interface for end in ends),
    )


def _link(network: str, ends: dict[str, End]) -> Link:
    nics = [end.nic for end in ends.values()]
    speeds, mtus = [nic.speed_bits_per_s for nic in nics if nic.speed_bits_per_s], [nic.mtu for nic in nics if nic.mtu]
    return Link(
        network=network,
        kind="rdma" if all(map(is_rdma, nics)) else "wifi" if any(nic.wifi for nic in nics) else "ethernet",
        members={host: end.nic.interface for host, end in ends.items()},
        speed_bits_per_s=min(speeds, default=None),
        mtu=min(mtus, default=None),
    )


def _own_addresses(hosts: Sequence[Host]) -> dict[str, End]:
    """Without a common network: the address that ssh reaches a host by, else that of its fittest interface."""
    chosen = {}
    shared = _on_two_hosts(hosts)
    for host in hosts:
        ends = [end for end in _ends(host) if _ip(end.address) not in shared]
        by_ssh = [end for end in ends if host.ssh is not None and _ip(end.address) == host.ssh.address]
        if ends:
            chosen[host.name] = (by_ssh or [max(ends, key=lambda end: end.rank)])[0]
    return chosen


def _with_fabric(
    host: Host, end: End | None, networks: dict[str, dict[str, End]], layer: str | None, *, ring: bool
) -> Host:
    if end is None:
        return host
    nic = end.nic
    why = [f"{nic.interface}: {_describe(nic)}, on {ipaddress.ip_interface(end.address).network}; sockets go over it"]
    data, reasons = _data(host, end, networks, layer)
    hcas = list(dict.fromkeys(one.rdma_device for one in data if one.rdma_device))
    if nic.twin is not None and not other_domain(nic.interface):
        why.append(f"{nic.interface} before its twin {nic.twin}: NVIDIA's guides use the one without a PCI domain")
    if any(one.twin in {other.interface for other in data} for one in data):
        why.append(f"both HCAs of each port go to NCCL ({', '.join(hcas)}): one alone carries half of the cable's rate")
    elif hcas:
        why.append(f"RDMA for NCCL: {', '.join(hcas)}")
    if not hcas:
        why.append("no HCA is named: no RDMA port with a link was found for this network")
    ucx, why_ucx = _ucx(host, nic, data, ring=ring)
    why += [*reasons, f"UCX: {', '.join(ucx)}, {why_ucx}"]
    return host.with_(
        fabric=Fabric(interface=nic.interface, address=_ip(end.address), hcas=hcas, ucx=ucx if hcas else [], why=why)
    )


def _ucx(host: Host, sockets: Nic, data: list[Nic], *, ring: bool) -> tuple[list[str], str]:
    """UCX's devices and the reason. It cannot choose a port by the other side's subnet, so none without an address."""
    addressed = {name for nic in host.nics if nic.addresses for name in (nic.interface, *nic.over)}
    able = [nic for nic in data if nic.link_layer == "InfiniBand" or nic.interface in addressed]
    if not able or ring:
        why = "which does not choose a port by the subnet" if ring else "over TCP: no RDMA port has an address"
        return [sockets.interface], why
    names = list(dict.fromkeys(f"{nic.rdma_device}:{nic.rdma_port or 1}" for nic in able))
    left = sorted({str(nic.rdma_device) for nic in data} - {str(nic.rdma_device) for nic in able})
    return names, "RDMA devices with their ports" + (f"; {', '.join(left)} has no address of its own" if left else "")


def _layer(hosts: Sequence[Host], networks: dict[str, dict[str, End]]) -> str | None:
    """InfiniBand or Ethernet (RoCE): what carries most of the data on every host. NCCL cannot join one to the other."""
    rates = {
        layer: min(_rate([nic for nic in _leading(host, None, networks) if nic.link_layer == layer]) for host in hosts)
        for layer in ("InfiniBand", "Ethernet")
    }
    return max(rates, key=lambda layer: rates[layer]) if any(rate > (0, 0) for rate in rates.values()) else None


def _of_storage(nic: Nic, layer: str | None) -> bool:
    """Whether it has an RDMA port of the other kind than the one that carries the data."""
    return is_rdma(nic) and nic.link_layer not in (None, layer)


def _rate(nics: Sequence[Nic]) -> tuple[int, int]:
    """Ports, and their speed where it is told."""
    return len({nic.rdma_device for nic in nics}), sum(nic.speed_bits_per_s or 0 for nic in nics)


def _leading(host: Host, chosen: End | None, networks: dict[str, dict[str, End]]) -> list[Nic]:
    """Interfaces with an RDMA port that lead to another host; in place of a VLAN or bond what is beneath it."""
    shared = {end.nic.interface for members in networks.values() for end in members.values() if end.host == host.name}
    shared |= {chosen.nic.interface} if chosen else set()
    beneath = {name for nic in host.nics if nic.interface in shared for name in nic.over}
    own = [nic for nic in host.nics if is_rdma(nic) and (nic.interface in shared or nic.link_layer == "InfiniBand")]
    lower = [nic for nic in host.nics if is_rdma(nic) and nic.interface in beneath]
    # A bond that is an RDMA device itself (RoCE LAG) needs no members.
    known = {nic.rdma_device for nic in lower}
    return [*lower, *(nic for nic in own if not (nic.over and nic.rdma_device in known))]


def _data(
    host: Host, chosen: End, networks: dict[str, dict[str, End]], layer: str | None
) -> tuple[list[Nic], list[str]]:
    """The interfaces whose RDMA ports carry the data, with their twins; and why others do not."""
    leads = _leading(host, chosen, networks)
    taken = [nic for nic in leads if not _of_storage(nic, layer)]
    why = []
    if other := sorted({str(nic.rdma_device) for nic in leads if nic not in taken}):
        kind = "RoCE" if layer == "InfiniBand" else "InfiniBand"
        why.append(f"{', '.join(other)}: {kind}, left to storage: NCCL does not join {kind} ports to the others")
    top = max((nic.speed_bits_per_s or 0 for nic in taken), default=0)
    slow = [nic for nic in taken if nic.speed_bits_per_s and nic.speed_bits_per_s < top]
    if slow and len(taken) > len(slow) + 1:
        told = ", ".join(f"{nic.rdma_device} ({_describe(nic)})" for nic in slow)
        why.append(f"{told}: slower than the other {len(taken) - len(slow)} ports, left to storage and management")
        taken = [nic for nic in taken if nic not in slow]
    plain = {nic.interface for nic in taken if not _stacked(host, nic)}
    twins = [nic for nic in host.nics if is_rdma(nic) and nic.twin in plain]
    names = {nic.interface for nic in [*taken, *twins]}
    return [nic for nic in host.nics if nic.interface in names], why


def _stacked(host: Host, nic: Nic) -> bool:
    """Whether a VLAN or a bond stands on it: then its twin carries the same only with one of its own."""
    return any(nic.interface in other.over for other in host.nics)


def _describe(nic: Nic) -> str:
    speed = f" at {nic.speed_bits_per_s / 1e9:g} Gb/s" if nic.speed_bits_per_s else ""
    return ("RDMA" if is_rdma(nic) else "Wi-Fi" if nic.wifi else "Ethernet") + speed


def _ports_up(host: Host) -> int:
    """Cables: RDMA ports with a link, twins counted once."""
    return len({min(nic.interface, nic.twin or nic.interface) for nic in host.nics if is_rdma(nic)})


def _pairs_by_cable(hosts: Sequence[Host], networks: dict[str, dict[str, End]]) -> bool:
    """More than two hosts, every pair of them joined by an RDMA network of its own: a ring of three."""
    rdma = [set(members) for members in networks.values() if all(is_rdma(end.nic) for end in members.values())]
    if len(hosts) < 3 or any(len(members) > 2 for members in rdma):
        return False
    names = [host.name for host in hosts]
    return all({a, b} in rdma for i, a in enumerate(names) for b in names[i + 1 :])


def _why_fabric(hosts: Sequence[Host], networks: dict[str, dict[str, End]], common: dict[str, dict[str, End]]) -> str:
    cables = min(map(_ports_up, hosts))
    over_rdma = any(all(is_rdma(end.nic) for end in members.values()) for members in common.values())
    if _pairs_by_cable(hosts, networks):
        return "a ring: each pair of hosts has a cable of its own; sockets go over the network that all hosts share"
    if over_rdma and len(hosts) == 2:
        return f"{cables} RDMA port{'s' * (cables > 1)} up on both hosts: a pair joined by cable, or over a switch"
    if over_rdma:
        return f"one RDMA network joins all {len(hosts)} hosts: a switch"
    return "no RDMA network joins all hosts; the fastest network that does is used"


def _warnings_of(hosts: Sequence[Host]) -> list[str]:
    """What is wrong with a host by itself."""
    warnings = []
    some = any(map(has_gpus, hosts))
    for host in hosts:
        if some and not has_gpus(host):
            warnings.append(f"{host.name}: no GPU was found, and other hosts have some: leave it out, or `device: cpu`")
        warnings += [
            f"{host.name}: {fact}{':' if ' ' in fact else ' is not known:'} {reason}"
            for fact, reason in host.unknown.items()
            if fact != DOCKER.name or host.ssh is not None or len(hosts) > 1  # one machine alone needs no containers
        ]
        by_name = {nic.interface: nic for nic in host.nics}
        for nic in host.nics:
            twin = by_name.get(nic.twin or "")
            if twin is None or other_domain(nic.interface):
                continue
            for network in sorted(_nets(nic) & _nets(twin)):
                warnings.append(
                    f"{host.name}: {nic.interface} and its twin {twin.interface} both have an address on {network}: "
                    "put them on different subnets, or remove the twin's"
                )
    return warnings


def _nets(nic: Nic) -> set[str]:
    return {str(ipaddress.ip_interface(address).network) for address in nic.addresses}


def _warnings_between(
    hosts: Sequence[Host], chosen: dict[str, End], common: bool, networks: dict[str, dict[str, End]]
) -> list[str]:
    shared = _on_two_hosts(hosts)
    warnings = [
        f"{host.name}: no interface is up with an address{' of its own' if _ends(host) else ''}"
        for host in hosts
        if host.name not in chosen
    ]
    twice: dict[str, list[str]] = {}
    for address, names in sorted(shared.items()):
        twice.setdefault(", ".join(names), []).append(address)
    warnings += [
        f"{names} all have {', '.join(addresses)}: one machine named twice, or one address given to several"
        for names, addresses in twice.items()
    ]
    if not common:
        warnings.append(f"no network joins all hosts: {', '.join(host.name for host in hosts)}")
    for network, members in networks.items():
        mtus = {name: end.nic.mtu for name, end in members.items() if end.nic.mtu is not None}
        told = ", ".join(f"{members[name].nic.interface} on {name} has {mtu}" for name, mtu in mtus.items())
        if len(set(mtus.values())) > 1:
            warnings.append(f"MTU differs on {network}: {told}; large packets are lost")
        elif mtus and all(is_rdma(end.nic) for end in members.values()) and min(mtus.values()) < FABRIC_MTU:
            warnings.append(f"MTU of {network} is {min(mtus.values())}; set {FABRIC_MTU} on both sides of an RDMA link")
    slow = [chosen[host.name] for host in hosts if host.gpus and host.fabric is not None and not host.fabric.hcas]
    if slow:
        what = "Wi-Fi" if any(end.nic.wifi for end in slow) else "Ethernet"
        warnings.append(f"hosts are joined by {what} alone, without RDMA: expect {SLOW}")
    for host in hosts:
        addressed = {nic.interface for nic in host.nics if nic.addresses}
        addressed |= {name for nic in host.nics if nic.addresses for name in nic.over}
        bare = [nic for nic in host.nics if is_rdma(nic) and nic.link_layer != "InfiniBand"]
        warnings += [
            f"{host.name}: {nic.interface} is up and has no address, so nothing is sent over it"
            for nic in bare
            if addressed.isdisjoint({nic.interface, nic.twin}) and not other_domain(nic.interface)
        ]
    return warnings
