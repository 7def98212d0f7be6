"""Which beds there are on this machine, who holds them, and how the remains of a dead one are removed.

A bed's id is in the name of everything that it makes (folder, interfaces, namespaces, control groups), and its claim
names the process that made it. So what a killed test run left behind can be told from what somebody uses now.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from testbed import network

BASE = Path("/var/lib/overspan-testbed")
"""Not under /tmp: sshd accepts keys only below folders that others cannot write to."""
CGROUPS = Path("/sys/fs/cgroup")
FIRST_SUBNET = 10
LAST_SUBNET = 250
BURIAL_S = 30.0


@dataclass(frozen=True)
class Claim:
    """A bed, and the process that holds it. One without was made by `testbed up` and stays until `testbed down`."""

    bed: str
    subnet: int
    hosts: list[str]
    owner_pid: int | None
    owner_started: float | None
    shared: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the bed's files are."""
        return BASE / self.bed

    def address(self, number: int) -> str:
        """An address in the bed's network; 254 is this machine's own."""
        return f"10.10.{self.subnet}.{number}"

    @property
    def abandoned(self) -> bool:
        """Whether the process that held it is gone."""
        if self.owner_pid is None:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.owner_pid).create_time() != self.owner_started
        return True


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One at a time looks for a free subnet or removes remains."""
    BASE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (BASE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def claims() -> list[Claim]:
    """Every bed on this machine."""
    return [Claim(**json.loads(path.read_text())) for path in sorted(BASE.glob("*/claim.json"))]


def claim(hosts: list[str], shared: list[str], *, persistent: bool) -> Claim:
    """Remove what dead owners left, then take an id and a subnet that nobody uses."""
    with locked():
        for old in claims():
            if old.abandoned:
                remove(old)
        used = {old.subnet for old in claims()} | {
            int(address.split(".")[2]) for address in network.addresses_here() if address.startswith("10.10.")
        }
        subnet = next(number for number in range(FIRST_SUBNET, LAST_SUBNET) if number not in used)
        me = psutil.Process()
        made = Claim(
            bed=secrets.token_hex(2),
            subnet=subnet,
            hosts=hosts,
            shared=shared,
            owner_pid=None if persistent else me.pid,
            owner_started=None if persistent else me.create_time(),
        )
        made.folder.mkdir()
        partial = made.folder / "claim.json.partial"
        partial.write_text(json.dumps(asdict(made)))
        partial.rename(made.folder / "claim.json")
        return made


def remove(old: Claim) -> None:
    """End and delete everything that bears the bed's id."""
    namespaces = network.namespaces_of(old.bed)
    for netns in namespaces:
        while left := network.processes_in(netns):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
    network.remove(old.bed, namespaces)
    for group in cgroups_of(old.bed):
        for path in (*sorted(group.rglob("*/"), key=lambda p: -len(p.parts)), group):
            _remove_cgroup(path)
    shutil.rmtree(old.folder)


def _remove_cgroup(path: Path) -> None:
    """A control group is busy until the kernel has buried the last process that was killed in it."""
    deadline = time.monotonic() + BURIAL_S
    while path.exists():
        try:
            path.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def cgroups_of(bed: str) -> list[Path]:
    """The control groups that the bed's engines made, one for each controller."""
    return sorted(CGROUPS.glob(f"*/overspan-testbed-{bed}")) + sorted(CGROUPS.glob(f"overspan-testbed-{bed}"))


def remains(bed: str) -> list[str]:
    """What of a bed is still there; empty after its end."""
    mine = [BASE / bed] if (BASE / bed).exists() else []
    mounts = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(BASE / bed) in line
    ]
    processes = [pid for netns in network.namespaces_of(bed) for pid in network.processes_in(netns)]
    return [
        *(f"folder {path}" for path in mine),
        *(f"mount {path}" for path in mounts),
        *(f"process {pid}" for pid in processes),
        *(f"namespace {name}" for name in network.namespaces_of(bed)),
        *(f"interface {name}" for name in network.links_of(bed)),
        *(f"control group {path}" for path in cgroups_of(bed)),
    ]
