"""One host of the bed: its services, commands in it, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from testbed import network
from testbed.commands import sh
from testbed.init import PRIVATE

START_TIMEOUT_S = 60.0  # a frozen CI machine, not dockerd: that answers within 3 s
NEW_NAMESPACES = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")
SERVICES = frozenset({"sshd", "dockerd", "containerd", "slurmd"})


@dataclass
class Host:
    """A host. `folder` holds everything of it; `files/path` inside is reached from outside with `outside(path)`."""

    bed: str
    number: int
    name: str
    address: str
    gateway: str
    folder: Path
    shared: list[str]
    persistent: bool
    has_docker: bool = True
    slurm_conf: Path | None = None
    _owner: subprocess.Popen[bytes] | None = None

    @property
    def netns(self) -> str:
        """Its network namespace's name."""
        return f"os{self.bed}-{self.name}"

    @property
    def cgroup(self) -> str:
        """The control group of its containers."""
        return f"/overspan-testbed-{self.bed}/{self.name}"

    @property
    def docker_host(self) -> str:
        """Its Docker engine, as seen from outside: a value for DOCKER_HOST."""
        return f"unix://{self.folder}/run/docker.sock"

    @property
    def init(self) -> psutil.Process | None:
        """Its process 1, or None when it is off."""
        record = self.folder / "init.json"
        if not record.exists():
            return None
        known = json.loads(record.read_text())
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(known["pid"])
            if process.create_time() == known["create_time"] and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None

    # life ------------------------------------------------------------------------------------------------------------

    def prepare(self, hosts_file: str, public_key: str) -> None:
        """Write its folders, keys and configuration; nothing is started."""
        for top in PRIVATE:
            (self.folder / top.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)
        (self.folder / "root").chmod(0o700)
        (self.folder / "hosts").write_text(hosts_file)
        (self.folder / "hostname").write_text(self.name + "\n")
        (self.folder / "authorized_keys").write_text(public_key)
        self._make_host_key()
        (self.folder / "sshd_config").write_text(_sshd_config(self.folder, self.slurm_conf))
        dockerd = (
            f"dockerd --data-root {self.folder}/docker --exec-root /run/docker --pidfile /run/docker.pid "
            f"--host unix:///run/docker.sock "
            f"--iptables=false --ip6tables=false --bridge=none --storage-driver=vfs --cgroup-parent={self.cgroup}"
        )
        config = {
            "home": str(self.folder),
            "name": self.name,
            "shared": self.shared,
            "lifeline": not self.persistent,
            "services": {
                "sshd": ["/usr/sbin/sshd", "-D", "-e", "-f", f"{self.folder}/sshd_config"],
                **({"dockerd": dockerd.split()} if self.has_docker else {}),
                **({"slurmd": ["/usr/sbin/slurmd", "-D", "-f", str(self.slurm_conf)]} if self.slurm_conf else {}),
            },
        }
        (self.folder / "config.json").write_text(json.dumps(config))

    def power_on(self) -> None:
        """Start it and wait until sshd and dockerd answer."""
        shutil.rmtree(self.folder / "run")
        (self.folder / "run").mkdir()
        (self.folder / "ready").unlink(missing_ok=True)
        network.set_up(self.bed, self.number)
        script = Path(__file__).with_name("init.py")
        enter = ["nsenter", f"--net={network.NETNS / self.netns}", *NEW_NAMESPACES]
        with (self.folder / "init.log").open("ab") as log:
            self._owner = subprocess.Popen(
                [*enter, sys.executable, "-I", str(script), str(self.folder / "config.json")],
                stdin=subprocess.DEVNULL if self.persistent else subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        self._wait_for("process 1", (self.folder / "ready").exists)
        init = psutil.Process(self._owner.pid).children()[0]
        (self.folder / "init.json").write_text(json.dumps({"pid": init.pid, "create_time": init.create_time()}))
        self._wait_for("sshd", self._sshd_answers)
        if self.has_docker:
            self._wait_for("dockerd", lambda: bool(self._docker_version()))

    def power_off(self) -> None:
        """Pull the plug: the link goes first, so nobody is told, then every process at once."""
        network.set_down(self.bed, self.number)
        init = self.init
        if init is not None:
            init.kill()
        deadline = time.monotonic() + START_TIMEOUT_S
        while (left := network.processes_in(self.netns)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self._owner is not None:
            if self._owner.stdin is not None:
                self._owner.stdin.close()
            self._owner.wait(START_TIMEOUT_S)
            self._owner = None

    def _wait_for(self, what: str, done: object) -> None:
        assert callable(done)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not done():
            if (self._owner is not None and self._owner.poll() is not None) or time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in self.folder.glob("*.log"))
                raise RuntimeError(f"{what} of host {self.name} did not start\n{logs}")
            time.sleep(0.05)

    def _sshd_answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, 22), timeout=1.0) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    def _docker_version(self) -> str:
        argv = ["docker", "--host", self.docker_host, "version", "--format", "{{.Server.Version}}"]
        return sh(argv, check=False).strip()

    def _make_host_key(self) -> None:
        key = self.folder / "ssh_host_ed25519_key"
        for path in (key, key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        sh(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"host {self.name}", "-f", str(key)])

    @property
    def public_host_key(self) -> str:
        """Its line for a known_hosts file."""
        kind, key, _ = (self.folder / "ssh_host_ed25519_key.pub").read_text().split(maxsplit=2)
        return f"{self.address},{self.name} {kind} {key}"

    # commands --------------------------------------------------------------------------------------------------------

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` in the host, not through its sshd."""
        init = self.init
        if init is None:
            raise RuntimeError(f"host {self.name} is off")
        return ["nsenter", "-t", str(init.pid), "-m", "-u", "-i", "-n", "-p", "--", *argv]

    def run(self, *argv: str, check: bool = True, stdin: bytes | None = None) -> str:
        """Run a command in the host and give its stdout."""
        return sh(self.inside(argv), check=check, stdin=stdin)

    def docker(self, *argv: str, check: bool = True, stdin: bytes | None = None) -> str:
        """Call the host's Docker engine and give stdout."""
        return sh(["docker", "--host", self.docker_host, *argv], check=check, stdin=stdin)

    def outside(self, path: str) -> Path:
        """Where a file under the host's /run, /root, /tmp or /srv is, seen from outside."""
        if not f"{path}/".startswith(tuple(f"{top}/" for top in PRIVATE)):
            raise ValueError(f"{path} is not the host's own; its own are {', '.join(PRIVATE)}")
        return self.folder / path.lstrip("/")

    def processes(self) -> list[psutil.Process]:
        """Every process on the host but its process 1, in containers too."""
        init = self.init
        if init is None:
            return []
        found = {process.pid: process for process in init.children(recursive=True)}
        for pid in network.processes_in(self.netns):  # entered from outside: no child of process 1
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                status = Path(f"/proc/{pid}/status").read_text()
                inner = next(line.split() for line in status.splitlines() if line.startswith("NSpid:"))
                if len(inner) > 2 and pid != init.pid:
                    found[pid] = psutil.Process(pid)
        return list(found.values())

    def strays(self) -> list[str]:
        """What runs or lies there beside its services: processes, containers and shared memory."""
        if self.init is None:
            return []
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() not in SERVICES and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{self.name}: process {process.pid} {' '.join(process.cmdline())[:120]}")
        listed = self.docker("ps", "--all", "--format", "{{.Names}} {{.Status}} {{.Labels}}") if self.has_docker else ""
        found += [f"{self.name}: container {line}" for line in listed.splitlines()]
        return found + [f"{self.name}: /dev/shm/{name}" for name in self.run("ls", "/dev/shm").split()]

    def clear(self) -> None:
        """End and remove whatever `strays` names."""
        if self.has_docker and (containers := self.docker("ps", "--all", "--quiet").split()):
            self.docker("rm", "--force", "--volumes", *containers)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() not in SERVICES:
                    process.kill()
        self.run("find", "/dev/shm", "-mindepth", "1", "-delete")

    # faults: each ends with its `with` block -------------------------------------------------------------------------

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """The cable is out. Everything on the host goes on."""
        network.set_down(self.bed, self.number)
        try:
            yield
        finally:
            network.set_up(self.bed, self.number)
            sh(["ip", "-n", self.netns, "route", "replace", "default", "via", self.gateway])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process stands still, containers too; connections stay open and nothing answers."""
        init = self.init
        if init is None:
            raise RuntimeError(f"host {self.name} is off")
        stopped: dict[int, psutil.Process] = {}
        while fresh := [p for p in (init, *self.processes()) if p.pid not in stopped]:
            for process in fresh:
                stopped[process.pid] = process
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
        try:
            yield
        finally:
            for process in stopped.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextlib.contextmanager
    def slow(self, *, bits_per_s: int) -> Iterator[None]:
        """What comes to the host comes at this speed."""
        link = network.link_of(self.bed, self.number)
        sh(
            [
                "tc",
                "qdisc",
                "add",
                "dev",
                link,
                "root",
                "tbf",
                "rate",
                str(bits_per_s),
                "burst",
                "64k",
                "latency",
                "50ms",
            ]
        )
        try:
            yield
        finally:
            sh(["tc", "qdisc", "delete", "dev", link, "root"])

    @contextlib.contextmanager
    def mtu(self, size: int) -> Iterator[None]:
        """Another MTU on the host's own interface; the bridge and the other hosts keep theirs."""
        before = json.loads(sh(["ip", "-j", "-n", self.netns, "link", "show", "eth0"]))[0]["mtu"]
        network.set_mtu(self.netns, size)
        try:
            yield
        finally:
            network.set_mtu(self.netns, before)

    @contextlib.contextmanager
    def port_taken(self, port: int, address: str = "0.0.0.0") -> Iterator[int]:
        """Somebody else listens on a port; gives that process's id as the host sees it."""
        script = (
            "import os,socket,sys,time;s=socket.create_server((sys.argv[1],int(sys.argv[2])));"
            "print(os.getpid(),flush=True);time.sleep(3600)"
        )
        argv = self.inside([sys.executable, "-I", "-c", script, address, str(port)])
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd="/") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            children = psutil.Process(process.pid).children()
            try:
                if not line:
                    raise RuntimeError(f"port {port} of host {self.name} cannot be taken")
                yield int(line)
            finally:
                for child in children:
                    child.kill()

    @contextlib.contextmanager
    def new_host_key(self) -> Iterator[None]:
        """The host identifies itself with another key, as after a reinstall or in an attack."""
        kept = {path: path.read_bytes() for path in self.folder.glob("ssh_host_ed25519_key*")}
        self._make_host_key()
        self.reload_sshd()
        try:
            yield
        finally:
            for path, content in kept.items():
                path.write_bytes(content)
            self.reload_sshd()

    def reload_sshd(self) -> None:
        """Let sshd read its keys again."""
        log = self.folder / "sshd.log"
        before = log.read_text().count("Server listening on 0.0.0.0")
        self.run("kill", "-HUP", self.outside("/run/sshd.pid").read_text().strip())
        self._wait_for("sshd", lambda: log.read_text().count("Server listening on 0.0.0.0") > before)

    @contextlib.contextmanager
    def altered(self, path: str) -> Iterator[None]:
        """One byte in the middle of a file is another one; size and times stay."""
        file = self.outside(path)
        content, stat = file.read_bytes(), file.stat()
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        try:
            yield
        finally:
            file.write_bytes(content)
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _sshd_config(folder: Path, slurm_conf: Path | None) -> str:
    env = f"SetEnv SLURM_CONF={slurm_conf}" if slurm_conf else ""
    return f"""\
Port 22
ListenAddress 0.0.0.0
HostKey {folder}/ssh_host_ed25519_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile /run/sshd.pid
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes yes
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
{env}
"""
