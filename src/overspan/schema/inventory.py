"""The machines at hand: what was detected, what was chosen from it and why. A person reads and edits this file."""

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from overspan.schema.base import Address, Environment, Frozen, ImageName, Interface, text_like
from overspan.schema.launcher_traits import LauncherName, LauncherTraits, traits_of

DeviceKind = Literal["cpu", "cuda"]


class Gpu(Frozen):
    """One accelerator. `kind` is a name of the hardware catalogue, e.g. `gb10`, or the driver's own name."""

    index: int = Field(ge=0)
    kind: str
    name: str = ""
    memory_bytes: int = Field(gt=0)
    unified_memory: bool = False
    driver: str | None = None
    compute_capability: str | None = None


class Nic(Frozen):
    """A network interface, with its RDMA device where it has one. `twin` is the same port seen over another path."""

    interface: str
    addresses: list[str] = Field(default_factory=list, description="CIDR notation, e.g. 10.10.10.1/24")
    mtu: int | None = None
    speed_bits_per_s: int | None = None
    up: bool = True
    rdma_device: str | None = None
    rdma_port: int | None = None
    rdma_state: str | None = None
    link_layer: Literal["Ethernet", "InfiniBand"] | None = None
    wifi: bool = False
    twin: str | None = None


class Choice(Frozen):
    """A value that was chosen, and why; edit `value` to override."""

    value: Any
    why: str = ""


class Fabric(Frozen):
    """How one host talks to the others: one socket interface and address, all HCAs to NCCL."""

    interface: Interface
    address: Address
    hcas: list[str] = Field(default_factory=list)
    why: list[str] = Field(default_factory=list)


class Ssh(Frozen):
    """How to reach a host. Host keys are always verified, against `known_hosts` where it is given."""

    address: Address
    user: str | None = Field(None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    port: int = Field(22, ge=1, le=65535)
    identity_file: str | None = None
    known_hosts: str | None = None
    config_file: str | None = None


class ContainerRuntime(Frozen):
    """The container engine of a host."""

    kind: Literal["docker", "enroot"] = Field("docker", description="enroot: Pyxis starts it, under Slurm alone")
    version: str | None = None
    gpu: bool = False
    options: list[str] = Field(default_factory=list, description="more arguments of `docker run` on this host")


class Host(Frozen):
    """One machine. Without `ssh` it is the machine that the command runs on."""

    name: Annotated[str, text_like(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'")]
    ssh: Ssh | None = None
    arch: str = "x86_64"
    os: str = ""
    kernel: str = ""
    cpu_model: str = ""
    cores: int = Field(1, ge=1)
    cpu_bf16: bool | None = Field(None, description="whether the CPU itself computes in bfloat16; null: not known")
    memory_bytes: int = Field(gt=0)
    gpus: list[Gpu] = Field(default_factory=list)
    nics: list[Nic] = Field(default_factory=list)
    fabric: Fabric | None = None
    container: ContainerRuntime | None = None
    disk_free_bytes: int | None = None
    model_cache: str | None = Field(None, description="folder of Hugging Face models on this host")
    env: Environment = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict, description="facts that could not be read, and why")


class Link(Frozen):
    """A network that joins two or more hosts: which interface of each, over what, how fast."""

    network: str = Field(description="CIDR notation, e.g. 10.10.10.0/24")
    kind: Literal["rdma", "ethernet", "wifi"]
    members: dict[str, str] = Field(description="host -> interface")
    speed_bits_per_s: int | None = None
    mtu: int | None = None


class Unreachable(Frozen):
    """A host that was asked for and did not answer: what was tried, the line that says why, the command to run now."""

    name: str
    what: str
    quote: str | None = None
    next: str | None = None


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
    nodes: Literal["any", "named"] = "any"
    folder: _Folder | None = Field(
        None,
        description="folder on storage that the login node and all nodes share; default: overspan/ in the user's home",
    )
    partition: _SiteName | None = None
    account: _SiteName | None = None
    reservation: _SiteName | None = None
    time_limit: _TimeLimit | None = Field(
        None, description="as sbatch --time takes it: minutes, or [days-]hours:minutes:seconds"
    )
    exclusive: bool = True
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
                raise ValueError(f"{option!r} is no long option of sbatch; write it as --name=value, on one line")
            # sbatch takes the beginning of an option's name for the option.
            if any(own.startswith(found[1]) for own in _OWN_OPTIONS):
                raise ValueError(f"{option!r} is not the site's to say: overspan sets it for each run")
        return value


class Inventory(Frozen):
    """Hosts, and how processes are started on them."""

    name: str = "inventory"
    description: str = ""
    source: str = ""
    launcher: LauncherName = "local"
    device: DeviceKind = "cpu"
    hosts: list[Host] = Field(min_length=1)
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
    slurm: Slurm | None = None
    links: list[Link] = Field(default_factory=list, description="which network connects which hosts")
    why: dict[str, str] = Field(default_factory=dict, description="the reason of each choice; edit the choice itself")
    warnings: list[str] = Field(default_factory=list)
    unreachable: list[Unreachable] = Field(default_factory=list)

    @model_validator(mode="after")
    def _no_host_twice(self) -> Self:
        for what, values in {
            "name": [host.name for host in self.hosts],
            "fabric.address": [host.fabric.address for host in self.hosts if host.fabric],
        }.items():
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two hosts have the {what} {twice}")
        return self

    @model_validator(mode="after")
    def _enroot_has_an_effect(self) -> Self:
        enroot = [host.name for host in self.hosts if host.container and host.container.kind == "enroot"]
        if enroot and self.traits.containers == "always":
            raise ValueError(f"container.kind enroot of {enroot[0]} is for launcher slurm; {self.launcher} has none")
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
