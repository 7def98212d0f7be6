"""A real sshd on loopback: its own configuration, host key and authorised key; ended by its process id."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from overspan.schema.inventory import Ssh

PROGRAM = shutil.which("sshd") or "/usr/sbin/sshd"


def new_key(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.with_suffix(".pub").unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


class Sshd:
    """One server. `ssh` reaches it; `restart` gives it the host key that stands in `host_key` now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host_key = new_key(folder / "host")
        self.user_key = new_key(folder / "user")
        (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
        self.known_hosts = folder / "known hosts"  # with a blank: its name must survive ssh's own parsing
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.learn_host_key()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def ssh(self) -> Ssh:
        return Ssh(
            address="127.0.0.1",
            port=self.port,
            user=getpass.getuser(),
            identity_file=str(self.user_key),
            known_hosts=str(self.known_hosts),
        )

    def learn_host_key(self) -> None:
        key = self.host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, "-D", "-e", "-f", str(config)], stdout=log, stderr=log)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError((self.folder / "sshd.log").read_text())

    def connections(self) -> list[int]:
        """The processes that serve open connections, from /proc."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(child) for child in children]

    def cut(self) -> None:
        """Break every open connection at once."""
        for connection in self.connections():
            with suppress(ProcessLookupError):
                os.kill(connection, signal.SIGKILL)

    def stop(self) -> None:
        if self.process is None:
            return
        self.cut()
        self.process.terminate()
        self.process.wait(10)
        self.process = None


@contextmanager
def running_sshd(folder: Path) -> Iterator[Sshd]:
    server = Sshd(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
