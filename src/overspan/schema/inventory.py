"""The machines at hand: what was detected, what was chosen from it and why. A person reads and edits this file."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from overspan.schema.base import Address, Environment, Frozen, ImageName, InterfaceName, text_like
from overspan.schema.errors import InputError
from overspan.schema.launcher_traits import BUILT_IN, LauncherName, LauncherTraits, traits_of

DeviceKind = Literal["cpu", "cuda"]


class Gpu(Frozen):
    """One accelerator. `kind` is a name of the hardware catalogue, e.g. `gb10`, or the driver's own name."""

    index: int = Field(ge=0, description="number of the GPU, as nvidia-smi counts")
    kind: str = Field(description="kind in the hardware catalogue, e.g. gb10")
    name: str = Field("", description="name that the driver gives")
    memory_bytes: int | None = Field(
        None, gt=0, description="memory of this GPU, of its first MIG instance with MIG; no plan without it"
    )
    unified_memory: bool = Field(False, description="the GPU shares its memory with the CPU")
    driver: str | None = Field(None, description="version of the driver")
    compute_capability: str | None = Field(None, description="e.g. 12.1")
    pci: str | None = Field(None, description="PCI device id, e.g. 2e12")
    mig: list[str] | None = Field(
        None, description="its MIG instances, e.g. 1g.10gb; null: MIG mode is off or not known"
    )

    @property
    def size_bytes(self) -> int:
        """Its memory. `InputError` where that is not known."""
        if self.memory_bytes is None:
            raise InputError(f"the memory of GPU {self.index} is not known", next="write its memory_bytes")
        return self.memory_bytes


class Nic(Frozen):
    """A network interface, with its RDMA device where it has one. `twin` is the same port seen over another path."""

    interface: str = Field(description="name, as `ip link` has it")
    addresses: list[str] = Field(default_factory=list, description="CIDR notation, e.g. 10.10.10.1/24")
    mtu: int | None = Field(None, description="largest packet in bytes")
    speed_bits_per_s: int | None = Field(None, description="speed of the link")
    up: bool = Field(True, description="the link works")
    rdma_device: str | None = Field(None, description="RDMA device of this interface, e.g. rocep1s0f1")
    rdma_port: int | None = Field(None, description="port of that device")
    rdma_state: str | None = Field(None, description="e.g. ACTIVE")
    link_layer: Literal["Ethernet", "InfiniBand"] | None = Field(None, description="network type of the RDMA device")
    wifi: bool = Field(False, description="a wireless interface")
    twin: str | None = Field(None, description="another interface of the same port")
    over: list[str] = Field(default_factory=list, description="interfaces beneath: a VLAN's parent, a bond's members")


class Fabric(Frozen):
    """How one host talks to the others: one socket interface and address, RDMA devices for NCCL and for UCX."""

    interface: InterfaceName = Field(description="interface for control and socket traffic")
    address: Address = Field(description="address of this host on it")
    hcas: list[str] = Field(default_factory=list, description="RDMA devices for NCCL; empty: NCCL looks for them")
    ucx: list[str] = Field(
        default_factory=list,
        description="devices for UCX (NIXL), e.g. mlx5_0:1, or interfaces; empty: those of `hcas`, else `interface`",
    )
    why: list[str] = Field(default_factory=list, description="the reasons of these choices")


class Ssh(Frozen):
    """How to reach a host. Host keys are always verified, against `known_hosts` where it is given."""

    address: Address = Field(description="host name or address")
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="account on the host")
    port: int = Field(22, ge=1, le=65535, description="port of sshd")
    identity_file: str | None = Field(None, description="private key; default: as ssh finds it")
    known_hosts: str | None = Field(None, description="the only file of host keys to trust")
    config_file: str | None = Field(None, description="configuration file of ssh")


class ContainerRuntime(Frozen):
    """The container engine of a host."""

    kind: Literal["docker", "enroot"] = Field("docker", description="enroot: Pyxis starts it; only with Slurm")
    version: str | None = Field(None, description="version of the container engine")
    gpu: bool = Field(False, description="containers can use the GPUs")
    options: list[str] = Field(default_factory=list, description="more arguments of `docker run` on this host")


class Host(Frozen):
    """One machine. Without `ssh` it is the machine that the command runs on."""

    name: Annotated[str, text_like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'")] = Field(
        description="name of the host in plans, logs and commands"
    )
    ssh: Ssh | None = Field(None, description="how the host is reached; without it, this machine")
    arch: str = Field("", description="processor architecture, as `uname -m` prints it; empty: not known")
    os: str = Field("", description="operating system")
    kernel: str = Field("", description="version of the kernel")
    cpu_model: str = Field("", description="name of the processor")
    cores: int = Field(1, ge=1, description="cores of the processor")
    cpu_bf16: bool | None = Field(None, description="whether the CPU itself computes in bfloat16; null: not known")
    memory_bytes: int = Field(gt=0, description="main memory")
    gpus: list[Gpu] = Field(default_factory=list, description="its GPUs")
    nics: list[Nic] = Field(default_factory=list, description="its network interfaces")
    fabric: Fabric | None = Field(None, description="how it talks to the other hosts; needed with several hosts")
    container: ContainerRuntime | None = Field(None, description="its container engine")
    disk_free_bytes: int | None = Field(None, description="free space where models are kept")
    model_cache: str | None = Field(None, description="folder of Hugging Face models on this host")
    env: Environment = Field(default_factory=dict, description="environment variables of this host's processes")
    unknown: dict[str, str] = Field(default_factory=dict, description="facts that could not be read, and why")


class Link(Frozen):
    """A network that joins two or more hosts: which interface of each, over what, how fast."""

    network: str = Field(description="CIDR notation, e.g. 10.10.10.0/24")
    kind: Literal["rdma", "ethernet", "wifi"] = Field(description="type of the network")
    members: dict[str, str] = Field(description="host -> interface")
    speed_bits_per_s: int | None = Field(None, description="speed of the slowest interface")
    mtu: int | None = Field(None, description="smallest MTU")


class Unreachable(Frozen):
    """A host that was asked for and did not answer: what was tried, the line that says why, the command to run now."""

    name: str = Field(description="the host")
    what: str = Field(description="what was tried")
    quote: str | None = Field(None, description="the line that says why it failed")
    next: str | None = Field(None, description="the command to run now")


_SiteName = Annotated[
    str, text_like(r"[A-Za-z0-9_][A-Za-z0-9_.,+-]*", "a name: letters, digits, '_', '.', ',', '+', '-'")
]

_Folder = Annotated[str, text_like(r"/[^\n%]*", "an absolute path without '%', to which Slurm gives a meaning")]

_TimeLimit = Annotated[
    str,
    text_like(
        r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|(?i:unlimited|infinite)",
        "minutes, [hours:]minutes:seconds or days-hours[:minutes[:seconds]], in quotes",
    ),
]
"""Source: sbatch(1), --time."""

_OWN_OPTIONS: Final = (
    *("array", "chdir", "export", "export-file", "input", "job-name", "nodefile", "nodelist", "nodes"),
    *("ntasks", "ntasks-per-node", "output", "parsable", "requeue", "test-only", "uid", "gid", "wait", "wrap"),
)
"""Options of sbatch that a run's own submission stands on. With one of them it would be another job than is watched."""

_DIRECTIVE: Final = re.compile(r"--([a-z][a-z0-9-]*)(=[^\n\0]*)?")


class Slurm(Frozen):
    """Site settings of a Slurm cluster.

    `nodes`: with `any`, an inventory's hosts stand for nodes that Slurm chooses, and their names are placeholders; with
    `named` they are the names of the nodes to run on.
    """

    login: Ssh | None = Field(None, description="where sbatch and squeue are; without it, this machine")
    nodes: Literal["any", "named"] = Field("any", description="any: Slurm chooses the nodes; named: those in `hosts`")
    folder: _Folder | None = Field(
        None,
        description="folder on storage that the login node and all nodes share; default: overspan/ in the user's home",
    )
    partition: _SiteName | None = Field(None, description="as sbatch --partition takes it")
    account: _SiteName | None = Field(None, description="as sbatch --account takes it")
    reservation: _SiteName | None = Field(None, description="as sbatch --reservation takes it")
    time_limit: _TimeLimit | None = Field(
        None, description="as sbatch --time takes it: minutes, or [days-]hours:minutes:seconds"
    )
    exclusive: bool = Field(True, description="take whole nodes")
    segment: int | None = Field(
        None, ge=1, description="nodes of one block, as sbatch --segment (Slurm 23.11) takes it"
    )
    gres: bool = Field(True, description="whether the site's GPUs are asked for (--gpus-per-node)")
    directives: list[str] = Field(default_factory=list, description="more options of sbatch, e.g. --qos=high")
    images: _Folder | None = Field(None, description="shared folder of imported images; default: images/ in `folder`")
    local_models: _Folder | None = Field(
        None,
        description="folder on each node's own disk; weights are copied there before the start",
    )

    @field_validator("directives")
    @classmethod
    def _are_options(cls, value: list[str]) -> list[str]:
        for option in value:
            found = _DIRECTIVE.fullmatch(option)
            if found is None:
                raise ValueError(f"{option!r} is not a long option of sbatch; write it as --name=value, on one line")
            # sbatch takes the beginning of an option's name for the option.
            if any(own.startswith(found[1]) for own in _OWN_OPTIONS):
                raise ValueError(f"{option!r} cannot be set here: Overspan sets it for each run")
        return value


class Inventory(Frozen):
    """Hosts, and how processes are started on them."""

    name: str = Field("inventory", description="a name for people")
    description: str = Field("", description="one line for people")
    source: str = Field("", description="where the numbers come from")
    launcher: LauncherName = Field("local", description="local: this machine; docker: containers; slurm: a Slurm job")
    device: DeviceKind = Field("cpu", description="what the engine computes on; default: cuda where a host states GPUs")
    hosts: list[Host] = Field(min_length=1, description="the machines; the first is the head, where the endpoint is")
    engine_environment: str | None = Field(
        None, description="folder of the engine's Python environment on the hosts or in their containers; else the PATH"
    )
    router_environment: str | None = Field(
        None, description="folder of the environment of vLLM's router on the hosts; else the engine's, or the PATH"
    )
    images: dict[str, ImageName] = Field(default_factory=dict, description="aliases: a recipe's image -> this site's")
    models: dict[str, str] = Field(default_factory=dict, description="aliases: a model id -> a folder of this site")
    env: Environment = Field(default_factory=dict, description="for every process of every host")
    hardware: str | None = Field(None, description="a YAML of `overspan calibrate` in place of the catalogue's numbers")
    slurm: Slurm | None = Field(None, description="settings of the Slurm site")
    links: list[Link] = Field(default_factory=list, description="which network connects which hosts")
    why: dict[str, str] = Field(default_factory=dict, description="the reason of each choice; edit the choice itself")
    warnings: list[str] = Field(default_factory=list, description="what `detect` found odd")
    unreachable: list[Unreachable] = Field(default_factory=list, description="hosts that did not answer `detect`")

    @model_validator(mode="before")
    @classmethod
    def _device_of_gpus(cls, value: Any) -> Any:
        """GPUs that are stated are used, unless the device is stated too."""
        hosts = value.get("hosts") if isinstance(value, dict) and value.get("device") is None else None
        found = hosts if isinstance(hosts, list) else []
        stated = any(host.get("gpus") if isinstance(host, dict) else getattr(host, "gpus", None) for host in found)
        return {**value, "device": "cuda"} if stated else value

    @model_validator(mode="after")
    def _hosts_agree(self) -> Self:
        for _, why in clashes(self.model_dump(include={"launcher": True, "hosts": {"__all__": _CLASHING}})):
            raise ValueError(why)
        return self

    @property
    def traits(self) -> LauncherTraits:
        """How the launcher starts processes."""
        return traits_of(self.launcher)

    def is_here(self, host: Host) -> bool:
        """Whether what is started on a host runs on this machine."""
        return host.ssh is None and not self.traits.chooses_hosts

    def contains(self, image: str | None) -> bool:
        """Whether the processes of a recipe with that image run in containers."""
        by_host = self.traits.containers == "by_host" and image is not None and self.hosts[0].container is not None
        return by_host or self.traits.containers == "always"


_CLASHING: Final = {"name": True, "fabric": True, "container": True}


def clashes(data: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where hosts of an inventory do not go together, and why; also of one that holds other problems."""
    hosts = data["hosts"] if isinstance(data.get("hosts"), list) else []
    for keys in (("name",), ("fabric", "address")):
        seen: set[str] = set()
        for index, host in enumerate(hosts):
            value = _inside(host, *keys)
            if isinstance(value, str) and value in seen:
                yield ("hosts", index, *keys), f"two hosts have the {'.'.join(keys)} {value}"
            seen |= {value} if isinstance(value, str) else set()
    launcher = data.get("launcher", "local")
    if launcher in BUILT_IN and BUILT_IN[launcher].containers == "always":
        for index, host in enumerate(hosts):
            if _inside(host, "container", "kind") == "enroot":
                what = f"container.kind enroot of {_inside(host, 'name')} is for launcher slurm; {launcher} has none"
                yield ("hosts", index, "container", "kind"), what


def _inside(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
