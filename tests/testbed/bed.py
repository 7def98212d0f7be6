"""The test bed: hosts on one network, a client that reaches them, and the count of what was left behind."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from overspan.schema.inventory import ContainerRuntime, Fabric, Inventory, Nic, Ssh
from overspan.schema.inventory import Host as HostSpec
from testbed import claims, image, network, slurm
from testbed.claims import Claim
from testbed.commands import sh
from testbed.host import Host
from testbed.slurm import Slurm

PROGRAMS = ("ip", "sshd", "dockerd", "docker", "nsenter", "unshare", "ssh-keygen", "ping")
HERE = 254
NOBODY = 77
REPOSITORY = Path(__file__).parents[2]


def missing(*, with_slurm: bool = False) -> str | None:
    """Why no bed can be made here, or None: the reason of a skipped test."""
    if os.geteuid() != 0:
        return "the test bed makes network namespaces: it needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = slurm.missing() if with_slurm else []
    absent += [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"the test bed needs {', '.join(absent)}: run `make system-parts`" if absent else None


class Bed:
    """A context manager: `with Bed() as bed:`. `shared` are folders of this machine that the hosts see, read-only.

    `with_slurm`: the hosts are also nodes of a Slurm, and its folder `shared` is storage that all of them see.

    The interpreter that runs this and the repository are always shared. Everything else under /root, /tmp, /run and
    /srv is a host's own.
    """

    def __init__(
        self,
        names: Sequence[str] = ("node1", "node2"),
        *,
        shared: Sequence[str | Path] = (),
        persistent: bool = False,
        docker: bool = True,
        with_slurm: bool = False,
    ) -> None:
        self._names = list(names)
        self._shared = shared
        self._persistent = persistent
        self._docker = docker
        self._with_slurm = with_slurm
        self.slurm: Slurm | None = None

    def __enter__(self) -> Self:
        reason = missing(with_slurm=self._with_slurm)
        if reason is not None:
            raise RuntimeError(reason)
        self._take(claims.claim(self._names, _shared(self._shared), persistent=self._persistent))
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @classmethod
    def attach(cls, claim: Claim) -> Self:
        """A bed that another process made."""
        bed = cls(claim.hosts, persistent=True)
        bed._take(claim)
        return bed

    def down(self) -> None:
        """End everything that bears this bed's id, and make sure that it is gone."""
        if self.slurm is not None:
            self.slurm.stop()
        for host in self.hosts:
            if (network.NETNS / host.netns).exists() and network.link_of(self.id, host.number) in network.links_of(
                self.id
            ):
                host.power_off()
        with claims.locked():
            claims.remove(self.claim)
        left = claims.remains(self.id)
        if left:
            raise RuntimeError(f"bed {self.id} is not gone: {', '.join(left)}")

    def _take(self, claim: Claim) -> None:
        self.claim = claim
        self.id = claim.bed
        self.address = claim.address(HERE)
        self.unreachable_address = claim.address(NOBODY)
        self.client = claim.folder / "client"
        self.hosts = [
            Host(
                bed=claim.bed,
                number=number,
                name=name,
                address=claim.address(number),
                gateway=self.address,
                folder=claim.folder / name,
                shared=claim.shared,
                persistent=self._persistent,
                has_docker=self._docker,
                slurm_conf=claim.folder / "slurm" / "slurm.conf" if self._with_slurm else None,
            )
            for number, name in enumerate(claim.hosts, 1)
        ]

    def _up(self) -> None:
        self._make_client()
        network.make_bridge(self.id, self.address)
        hosts_file = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.hosts)
        public = (self.client / "id_ed25519.pub").read_text()
        for host in self.hosts:
            network.make_host(self.id, host.number, host.netns, host.address, host.gateway)
            host.prepare(hosts_file, public)
        self._trust_each_other()
        if self._with_slurm:
            nodes = {host.name: host.address for host in self.hosts}
            self.slurm = Slurm(self.claim.folder / "slurm", self.address, nodes)
            self.slurm.start()
        for host in self.hosts:
            host.power_on()
        if self._docker:
            image.install(self.hosts)
        if self.slurm is not None:
            self.slurm.wait_for_nodes()

    def _make_client(self) -> None:
        self.client.mkdir(mode=0o700)
        key = self.client / "id_ed25519"
        sh(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"client of bed {self.id}", "-f", str(key)])

    def _trust_each_other(self) -> None:
        """Known host keys for the client, and the same key and list on every host, as two Sparks are set up."""
        known = "".join(host.public_host_key + "\n" for host in self.hosts)
        (self.client / "known_hosts").write_text(known)
        settings = "".join(
            f"Host {host.name} {host.address}\n  HostName {host.address}\n  User root\n"
            f"  IdentityFile {self.client}/id_ed25519\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.client}/known_hosts\n  StrictHostKeyChecking yes\n  ConnectTimeout 5\n"
            for host in self.hosts
        )
        (self.client / "config").write_text(settings)
        for host in self.hosts:
            folder = host.outside("/root/.ssh")
            folder.mkdir(mode=0o700)
            (folder / "known_hosts").write_text(known)
            shutil.copy(self.client / "id_ed25519", folder)  # copies the mode, 0600

    def ssh(self, host: Host, *argv: str) -> list[str]:
        """The command that runs `argv` on a host through its sshd, host key verified."""
        return ["ssh", "-F", str(self.client / "config"), "-o", "BatchMode=yes", host.name, *argv]

    def inventory(self, *, engine: Path | None = None) -> Inventory:
        """The hosts as `overspan` takes them. Containers get this machine's programs, and `engine`, read-only.

        The engine's programs come first in a container's PATH, as in an image that was made for it.
        """
        options = [word for mount in image.mounts(engine) for word in ("--volume", f"{mount.source}:{mount.target}:ro")]
        options += ["--shm-size", "2g", "--env", "HOME=/tmp"]
        if engine is not None:
            options += ["--env", f"PATH={engine}/bin:/usr/bin:/bin"]
        return Inventory(
            name=f"bed-{self.id}",
            launcher="docker",
            device="cpu",
            hosts=[self._host_spec(host, options) for host in self.hosts],
        )

    def _host_spec(self, host: Host, options: list[str]) -> HostSpec:
        return HostSpec(
            name=host.name,
            ssh=Ssh(
                address=host.address,
                user="root",
                identity_file=str(self.client / "id_ed25519"),
                known_hosts=str(self.client / "known_hosts"),
            ),
            cores=1,
            memory_bytes=8 << 30,
            nics=[Nic(interface="eth0", addresses=[f"{host.address}/24"], mtu=1500)],
            fabric=Fabric(interface="eth0", address=host.address),
            container=ContainerRuntime(options=options),
            model_cache="/srv/models",
        )

    def write_inventory(self, *, engine: Path | None = None) -> Path:
        """The inventory as a file."""
        path = self.client / "inventory.yaml"
        path.write_text(yaml.safe_dump(self.inventory(engine=engine).model_dump(mode="json"), sort_keys=False))
        return path

    def orphans(self) -> list[str]:
        """Everything on the hosts that is not one of their own services."""
        return [stray for host in self.hosts for stray in host.strays()]

    def reset(self) -> None:
        """The state after `up`: hosts on, nothing but their services, the image there, their own files gone."""
        if self.slurm is not None:
            self.slurm.clear()
        for host in self.hosts:
            if host.init is None:
                host.power_on()
            host.clear()
            for top in ("/srv", "/tmp"):
                for path in host.outside(top).iterdir():
                    # Deleting the place of a shared folder would take it away from the host.
                    if not any(f"{shared}/".startswith(f"{top}/{path.name}/") for shared in host.shared):
                        _delete(path)
        if self._docker:
            image.install(self.hosts)
        if self.slurm is not None:
            self.slurm.wait_for_nodes()


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _shared(more: Sequence[str | Path]) -> list[str]:
    wanted = {sys.prefix, sys.base_prefix, str(REPOSITORY), *(str(Path(path).absolute()) for path in more)}
    return sorted(path for path in wanted if not any(path.startswith(f"{other}/") for other in wanted))
