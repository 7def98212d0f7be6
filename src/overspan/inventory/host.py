"""From what the facts of one host say to a `Host`: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from overspan.catalog import hardware
from overspan.inventory import gpus, machine, network, software
from overspan.inventory.fact import Capture, Fact, Seen, Value, read
from overspan.schema.errors import UnknownName
from overspan.schema.inventory import ContainerRuntime, Gpu, Host, Nic, Ssh

FACTS: Final[tuple[Fact[Any], ...]] = (
    machine.UNAME,
    machine.OS_RELEASE,
    machine.LSCPU,
    machine.MEMINFO,
    gpus.NVIDIA_SMI,
    gpus.GPU_MORE,
    gpus.GPU_LIST,
    gpus.GPU_SIGNS,
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
    found = _gpus(seen(gpus.NVIDIA_SMI), captures, memory.value.total_bytes, unknown)
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
        gpus=found,
        nics=nics,
        container=ContainerRuntime(version=docker.version, gpu=docker.gpu) if docker else None,
        disk_free_bytes=disk.free_bytes if disk else None,
        unknown=unknown,
    )


def _rdma(captures: Mapping[str, Capture], unknown: dict[str, str]) -> list[network.RdmaPort]:
    """The ports that the kernel shows, with the interfaces that ibdev2netdev names, and those that it alone has.

    ibdev2netdev says whether the interface is up, and of InfiniBand without IPoIB it is not while the port is.
    """
    tool = read(network.IBDEV2NETDEV, captures.get(network.IBDEV2NETDEV.name))
    kernel = read(network.RDMA_SYSFS, captures.get(network.RDMA_SYSFS.name))
    if tool.value is None and kernel.value is None and not kernel.absent:
        unknown[network.RDMA_SYSFS.name] = kernel.why
    named = {(port.device, port.port): port for port in tool.value or []}
    shown = {(port.device, port.port): port for port in kernel.value or []}
    return [
        *(replace(port, interface=named[key].interface) if key in named else port for key, port in shown.items()),
        *(port for key, port in named.items() if key not in shown),
    ]


def _gpus(
    told: Seen[list[gpus.GpuRow]], captures: Mapping[str, Capture], host_memory_bytes: int, unknown: dict[str, str]
) -> list[Gpu]:
    """The GPUs that can be used; why others cannot, and what is not known of them, goes to `unknown`."""
    signs = read(gpus.GPU_SIGNS, captures.get(gpus.GPU_SIGNS.name)).value or []
    more = {row.index: row for row in read(gpus.GPU_MORE, captures.get(gpus.GPU_MORE.name)).value or []}
    instances = read(gpus.GPU_LIST, captures.get(gpus.GPU_LIST.name)).value or {}
    found: list[Gpu] = []
    unread: dict[tuple[str, str], list[int]] = {}
    for row in told.value or []:
        if row.index is None or row.gone:
            name = re.search(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d", row.gone)
            unknown[f"GPU {name[0] if name else row.index}"] = f"{row.gone}; it is left out"
            continue
        gpu = gpu_of(row, more.get(row.index), instances.get(row.index), host_memory_bytes)
        if gpu.mig is not None:
            unknown[f"GPU {gpu.index}"] = told_mig(gpu)
        if gpu.mig != []:
            found.append(gpu)
        for what, cell in row.unread.items():
            if what != "memory" or gpu.memory_bytes is None:
                unread.setdefault((what, cell), []).append(row.index)
    for (what, cell), rows in unread.items():
        unknown[f"{what} of GPU {', '.join(map(str, rows))}"] = f"nvidia-smi tells {cell}"
    if not found and (signs or told.value):
        shown = f"; the kernel shows {', '.join(signs[:8])}" if signs else ""
        unknown["gpus"] = f"{told.why or 'nvidia-smi names none that can be used'}{shown}"
    return found


def told_mig(gpu: Gpu) -> str:
    """What MIG mode means for a plan."""
    if not gpu.mig:
        return (
            f"MIG mode is on and it has no instance, so it is left out; `sudo nvidia-smi -mig 0 -i {gpu.index}` ends it"
        )
    return f"MIG mode is on ({', '.join(gpu.mig)}): a process sees one instance, the first, and its memory is counted"


def gpu_of(row: gpus.GpuRow, more: gpus.GpuMore | None, instances: list[str] | None, host_memory_bytes: int) -> Gpu:
    """One GPU. `instances`: profiles of its MIG instances, none where they are not known."""
    pci = more.pci if more else None
    mig = instances if instances or (more and more.mig) else None
    slice_gb = re.search(r"\.(\d+)gb", mig[0]) if mig else None
    memory = None if more and more.mig and instances is None else row.memory_bytes
    if row.unified:
        memory = host_memory_bytes
    elif slice_gb:
        memory = int(slice_gb[1]) * 10**9
    return Gpu(
        index=row.index or 0,
        kind=kind_of(row.name, row.compute_capability, pci),
        name=row.name,
        memory_bytes=memory,
        unified_memory=row.unified,
        driver=row.driver,
        compute_capability=row.compute_capability,
        pci=pci,
        mig=mig,
    )


def has_gpus(host: Host) -> bool:
    """Whether the host has GPUs, or may have: what could not be read is not none."""
    return bool(host.gpus) or not {"gpus", gpus.NVIDIA_SMI.name}.isdisjoint(host.unknown)


def kind_of(name: str, capability: str | None = None, pci: str | None = None) -> str:
    """The kind of a GPU: by its PCI device, else of the catalogue by name, where its compute capability agrees.

    The name of another kind is made short: `NVIDIA H20` is `h20`, `NVIDIA RTX 6000 Ada Generation` `rtx-6000-ada`.
    """
    known = hardware.of_pci(pci) if pci else None
    if known is None and capability == GB10_CAPABILITY:
        return "gb10"
    if known is None:
        try:
            known = hardware.find(re.sub(r"[^A-Za-z0-9 +-]", " ", name))
        except UnknownName:
            known = None
        if known and capability and known.compute_capability not in (None, capability):
            return "-".join(_words(name))
    return known.name if known else _short(name)


GB10_CAPABILITY: Final = "12.1"
"""No other chip has it. Source: developer.nvidia.com/cuda-gpus (GB10, in each maker's Spark)."""

_PLAIN: Final = frozenset(
    {"nvidia", "geforce", "tesla", "generation", "edition", "gpu", "workstation", "server", "nvgpu"}
)


def _words(name: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9.-]+", name.lower()) if word not in _PLAIN]


def _short(name: str) -> str:
    words = _words(name)
    chip = next((word for word in words if re.match(r"^[a-z]+-?\d", word)), None)
    if chip:  # a chip's own name, such as A10G; after it come memory and socket
        return chip.split("-")[0]
    return "-".join(word for word in words if not re.match(r"^\d+gb", word)) or "unknown"


def _nics(
    interfaces: list[network.IpInterface], hardware: Mapping[str, network.Hardware], ports: list[network.RdmaPort]
) -> list[Nic]:
    rdma = {port.interface: port for port in ports if port.interface is not None}
    beneath = {one.name: _beneath(one, interfaces) for one in interfaces}
    for name, lower in beneath.items():
        ends = [rdma[one] for one in lower if one in rdma]
        if ends and name not in rdma:  # the first that is up stands for them all
            rdma[name] = max(ends, key=lambda port: port.active)
    nics = [
        _nic(interface, hardware.get(interface.name), rdma.get(interface.name), beneath[interface.name])
        for interface in interfaces
        if not network.OF_OTHERS.match(interface.name)
        and (interface.addresses or interface.name in rdma or _is_physical(hardware, interface.name))
    ]
    known = {nic.interface for nic in nics}
    nics += [_bare(port) for port in ports if port.interface not in known]
    return _with_twins(sorted(nics, key=_order))


def _beneath(interface: network.IpInterface, others: list[network.IpInterface]) -> list[str]:
    """What carries a VLAN's packets, or a bond's, down to interfaces that stand on none. Itself is not among them."""
    by_name = {one.name: one for one in others}
    lower = [one.name for one in others if interface.bonds and one.master == interface.name]
    lower += [interface.parent] if interface.parent in by_name and interface.parent != interface.name else []
    deeper = {name: _beneath(by_name[name], [one for one in others if one.name != interface.name]) for name in lower}
    return [bottom for name in lower for bottom in deeper[name] or [name]]


def _is_physical(hardware: Mapping[str, network.Hardware], name: str) -> bool:
    return name in hardware and hardware[name].physical


def _nic(
    interface: network.IpInterface, hardware: network.Hardware | None, port: network.RdmaPort | None, over: list[str]
) -> Nic:
    told = hardware.speed_bits_per_s if hardware else None
    return Nic(
        interface=interface.name,
        addresses=interface.addresses,
        mtu=interface.mtu,
        speed_bits_per_s=told or (port.speed_bits_per_s if port else None),
        up=interface.up,
        rdma_device=port.device if port else None,
        rdma_port=port.port if port else None,
        rdma_state=port.state if port else None,
        link_layer=port.link_layer if port else None,
        wifi=hardware.wifi if hardware else False,
        over=over,
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
        speed_bits_per_s=port.speed_bits_per_s,
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
