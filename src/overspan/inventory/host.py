"""From what the facts of one host say to a `Host`: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from overspan.inventory import gpus, machine, network, software
from overspan.inventory.fact import Capture, Fact, Seen, Value, read
from overspan.schema.inventory import ContainerRuntime, Gpu, Host, Nic, Ssh

FACTS: Final[tuple[Fact[Any], ...]] = (
    machine.UNAME,
    machine.OS_RELEASE,
    machine.LSCPU,
    machine.MEMINFO,
    gpus.NVIDIA_SMI,
    machine.DF,
    network.IP_ADDR,
    network.NET_SYSFS,
    network.IBDEV2NETDEV,
    network.RDMA_SYSFS,
    software.DOCKER,
    software.SINFO,
)

TWIN: Final = re.compile(r"^(?P<kind>[a-z]+)(P[0-9a-f]+)?(?P<place>p\d+s\d+.*)$")
"""An interface's name by place: PCI domain (left out when it is 0), bus, slot. systemd.net-naming-scheme(7)."""


def place_without_domain(interface: str) -> str | None:
    """The place in an interface's name without its PCI domain: the same for the two twins of one port."""
    found = TWIN.match(interface)
    return f"{found['kind']}{found['place']}" if found else None


def other_domain(interface: str) -> bool:
    """Whether the name holds a PCI domain, as that of the lesser twin does (`enP2p1s0f1np1`)."""
    return re.match(r"^[a-z]+P", interface) is not None


class Unseen(Exception):
    """A host whose memory could not be read: without it no plan can be made."""


def build_host(name: str, ssh: Ssh | None, captures: Mapping[str, Capture]) -> Host:
    """Make a host of what was captured there.

    Raises:
        Unseen: the memory is not known; every other fact may be missing.
    """
    unknown: dict[str, str] = {}

    def seen(fact: Fact[Value]) -> Seen[Value]:
        found = read(fact, captures.get(fact.name))
        if found.value is None and not found.absent:
            unknown[fact.name] = found.why
        return found

    kernel, cpu, memory = seen(machine.UNAME).value, seen(machine.LSCPU).value, seen(machine.MEMINFO)
    if memory.value is None:
        raise Unseen(f"its memory is not known: {memory.why}")
    disk, docker = seen(machine.DF).value, seen(software.DOCKER).value
    rows = seen(gpus.NVIDIA_SMI).value or []
    seen(software.SINFO)
    nics = _nics(seen(network.IP_ADDR).value or [], seen(network.NET_SYSFS).value or {}, _rdma(captures, unknown))
    return Host(
        name=name,
        ssh=ssh,
        arch=kernel.arch if kernel else "",
        os=seen(machine.OS_RELEASE).value or "",
        kernel=kernel.release if kernel else "",
        cpu_model=cpu.model if cpu else "",
        cores=cpu.cores if cpu else 1,
        cpu_bf16=cpu.bf16 if cpu else None,
        memory_bytes=memory.value.total_bytes,
        gpus=[_gpu(row, memory.value.total_bytes) for row in rows],
        nics=nics,
        container=ContainerRuntime(version=docker.version, gpu=docker.gpu) if docker else None,
        disk_free_bytes=disk.free_bytes if disk else None,
        unknown=unknown,
    )


def _rdma(captures: Mapping[str, Capture], unknown: dict[str, str]) -> list[network.RdmaPort]:
    """ibdev2netdev where it is there, and sysfs for what it does not tell (the link layer) or all of it."""
    tool = read(network.IBDEV2NETDEV, captures.get(network.IBDEV2NETDEV.name))
    kernel = read(network.RDMA_SYSFS, captures.get(network.RDMA_SYSFS.name))
    if tool.value is None and kernel.value is None and not kernel.absent:
        unknown[network.RDMA_SYSFS.name] = kernel.why
    if not tool.value:
        return kernel.value or []
    layers = {(port.device, port.port): port.link_layer for port in kernel.value or []}
    return [
        network.RdmaPort(
            port.device, port.port, port.interface, port.active, port.state, layers.get((port.device, port.port))
        )
        for port in tool.value
    ]


def _gpu(row: gpus.GpuRow, host_memory_bytes: int) -> Gpu:
    return Gpu(
        index=row.index,
        kind=kind_of(row.name),
        name=row.name,
        memory_bytes=host_memory_bytes if row.memory_bytes is None else row.memory_bytes,
        unified_memory=row.memory_bytes is None,
        driver=row.driver,
        compute_capability=row.compute_capability,
    )


def kind_of(name: str) -> str:
    """The chip in a driver's name: `NVIDIA GB10` is `gb10`, `NVIDIA H100 80GB HBM3` is `h100`."""
    words = re.sub(r"\b(nvidia|geforce|tesla|quadro)\b", " ", name.lower()).split()
    chip = next((word for word in words if re.match(r"^[a-z]*\d", word)), None)
    return chip.split("-")[0] if chip else "-".join(words) or "unknown"


def _nics(
    interfaces: list[network.IpInterface], hardware: Mapping[str, network.Hardware], ports: list[network.RdmaPort]
) -> list[Nic]:
    rdma = {port.interface: port for port in ports if port.interface is not None}
    nics = [
        _nic(interface, hardware.get(interface.name), rdma.get(interface.name))
        for interface in interfaces
        if not network.OF_OTHERS.match(interface.name)
        and (interface.addresses or interface.name in rdma or _is_physical(hardware, interface.name))
    ]
    known = {nic.interface for nic in nics}
    nics += [_bare(port) for port in ports if port.interface not in known]
    return _with_twins(sorted(nics, key=_order))


def _is_physical(hardware: Mapping[str, network.Hardware], name: str) -> bool:
    return name in hardware and hardware[name].physical


def _nic(interface: network.IpInterface, hardware: network.Hardware | None, port: network.RdmaPort | None) -> Nic:
    return Nic(
        interface=interface.name,
        addresses=interface.addresses,
        mtu=interface.mtu,
        speed_bits_per_s=hardware.speed_bits_per_s if hardware else None,
        up=interface.up,
        rdma_device=port.device if port else None,
        rdma_port=port.port if port else None,
        rdma_state=port.state if port else None,
        link_layer=port.link_layer if port else None,
        wifi=hardware.wifi if hardware else False,
    )


def _bare(port: network.RdmaPort) -> Nic:
    """An RDMA port without an interface that `ip` shows: InfiniBand without IPoIB, or no output of `ip` at all."""
    return Nic(
        interface=port.interface or port.device,
        up=port.active,
        rdma_device=port.device,
        rdma_port=port.port,
        rdma_state=port.state,
        link_layer=port.link_layer,
    )


def _order(nic: Nic) -> tuple[bool, bool, str]:
    return (nic.rdma_device is None, other_domain(nic.interface), nic.interface)


def _with_twins(nics: list[Nic]) -> list[Nic]:
    """Two RDMA interfaces whose names differ by the PCI domain alone are one port, seen over two PCI links.

    Source: docs.nvidia.com, DGX Spark: each port of its ConnectX-7 is reached over two PCIe x4 links.
    """
    by_place: dict[str, list[str]] = {}
    for nic in nics:
        place = place_without_domain(nic.interface)
        if nic.rdma_device is not None and place is not None:
            by_place.setdefault(place, []).append(nic.interface)
    twins = {pair[0]: pair[1] for pair in by_place.values() if len(pair) == 2}
    twins |= {second: first for first, second in twins.items()}
    return [nic.with_(twin=twins[nic.interface]) if nic.interface in twins else nic for nic in nics]
