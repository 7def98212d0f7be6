"""Process 1 of a host. Runs by path in a fresh set of namespaces, with the standard library alone.

It gives the host its own folders, starts sshd and dockerd, and then only collects the dead. When it ends, the kernel
ends everything in its process namespace: no container can outlive its host.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PRIVATE = ("/run", "/root", "/tmp", "/srv")


def mount(*argv: str) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *argv], check=True)


def bind(source: Path, target: Path, *, read_only: bool) -> None:
    """Show a file or folder in a second place."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount("--bind", str(source), str(target))
    if read_only:
        mount("-o", "remount,bind,ro", str(target))


def own_folders(home: Path, shared: list[str]) -> None:
    """Cover this machine's folders with the host's own; `shared` ones stay, at the same place, read-only."""
    covered = [Path(path) for path in shared if path.startswith(tuple(f"{top}/" for top in PRIVATE))]
    for number, path in enumerate(covered):
        bind(path, home / "held" / str(number), read_only=True)
    for top in PRIVATE:
        bind(home / top.lstrip("/"), Path(top), read_only=False)
    for number, path in enumerate(covered):
        held = home / "held" / str(number)
        bind(held, path, read_only=True)
        subprocess.run(["umount", str(held)], check=True)
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")
    for name in ("hosts", "hostname"):
        bind(home / name, Path("/etc") / name, read_only=True)


def own_kernel_views(home: Path) -> None:
    """/proc and /sys show the host's own processes and interfaces; the control groups stay, dockerd needs them."""
    kept = home / "cgroup"
    kept.mkdir(exist_ok=True)
    mount("--rbind", "/sys/fs/cgroup", str(kept))
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")
    mount("--rbind", str(kept), "/sys/fs/cgroup")
    subprocess.run(["umount", "-l", str(kept)], check=True)


def start(argv: list[str], log: Path) -> None:
    """Start a service."""
    with log.open("ab") as sink:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)


def end_with_owner() -> None:
    """Standard input is a pipe that the owner holds: its end means that the owner is gone, however it went."""
    os.read(0, 1)
    os._exit(0)


def main(config: dict[str, Any]) -> None:
    """Become the host."""
    home = Path(config["home"])
    socket.sethostname(config["name"])
    own_kernel_views(home)
    own_folders(home, config["shared"])
    Path("/run/sshd").mkdir(exist_ok=True)
    for name, argv in config["services"].items():
        start(argv, home / f"{name}.log")
    if config["lifeline"]:
        threading.Thread(target=end_with_owner, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    (home / "ready").touch()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
