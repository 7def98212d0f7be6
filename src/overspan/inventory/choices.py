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

RING_ENV: Final = {"NCCL_IB_SUBNET_AWARE_ROUTING": "1", "NCCL_NET_PLUGIN": "none"}
"""For cables that join one pair of hosts each. Source: NVIDIA/dgx-spark-playbooks, playbook-nccl, three nodes."""


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
        why["env"] = "each cable joins one pair of hosts: NCCL must choose the port by the subnet (NCCL 2.30 or later)"
    chosen = max(common.values(), key=_fitness) if common else _own_addresses(hosts)
    joined = [_with_fabric(host, chosen.get(host.name), networks) for host in hosts]
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


def _with_fabric(host: Host, end: End | None, networks: dict[str, dict[str, End]]) -> Host:
    if end is None:
        return host
    nic = end.nic
    why = [
        f"{nic.interface}: {_describe(nic)}, on {ipaddress.ip_interface(end.address).network}; sockets go over it too"
    ]
    hcas, twins = _hcas(host, end, networks)
    if nic.twin is not None and not other_domain(nic.interface):
        why.append(f"{nic.interface} before its twin {nic.twin}: NVIDIA's guides use the one without a PCI domain")
    if twins:
        why.append(f"both HCAs of each port go to NCCL ({', '.join(hcas)}): one alone carries half of the cable's rate")
    if not hcas:
        why.append("no HCA is named: no RDMA port with a link was found for this network")
    return host.with_(fabric=Fabric(interface=nic.interface, address=_ip(end.address), hcas=hcas, why=why))


def _hcas(host: Host, chosen: End, networks: dict[str, dict[str, End]]) -> tuple[list[str], bool]:
    """The active RDMA ports that lead to another host, with their twins. Returns also whether there is a twin."""
    shared = {end.nic.interface for members in networks.values() for end in members.values() if end.host == host.name}
    leads = {
        nic.interface
        for nic in host.nics
        if is_rdma(nic) and (nic.interface in shared | {chosen.nic.interface} or nic.link_layer == "InfiniBand")
    }
    twins = {nic.interface for nic in host.nics if is_rdma(nic) and nic.twin in leads}
    devices = [nic.rdma_device for nic in host.nics if nic.interface in leads | twins and nic.rdma_device]
    return list(dict.fromkeys(devices)), bool(twins)


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
        bare = [nic for nic in host.nics if is_rdma(nic) and nic.link_layer != "InfiniBand"]
        warnings += [
            f"{host.name}: {nic.interface} is up and has no address, so nothing is sent over it"
            for nic in bare
            if addressed.isdisjoint({nic.interface, nic.twin}) and not other_domain(nic.interface)
        ]
    return warnings
