"""A container image without a registry: empty folders, into which a container gets this machine's own programs."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overspan.schema.process import Mount
from testbed.commands import sh

if TYPE_CHECKING:
    from testbed.host import Host

NAME = "overspan-testbed:1"
OTHER = "overspan-testbed:other"
PROGRAMS = ("/usr", "/lib", "/lib64", "/bin", "/etc")  # not /sbin: Docker puts its init there
FOLDERS = (
    "usr",
    "lib",
    "lib64",
    "bin",
    "sbin",
    "etc",
    "opt",
    "root",
    "run",
    "srv",
    "tmp",
    "var/tmp",
    "proc",
    "sys",
    "dev",
)


def empty_root(note: str = "") -> bytes:
    """A tar of empty folders; `note` is kept in a file, so that another note makes another image."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("note")
        entry.size = len(note.encode())
        tar.addfile(entry, io.BytesIO(note.encode()))
    return content.getvalue()


def install(hosts: Sequence[Host]) -> None:
    """The same image, with the same id, on every host."""
    first, *others = hosts
    if not image_id(first):
        first.docker("import", "-", NAME, stdin=empty_root())
    for host in others:
        if image_id(host) != image_id(first):
            sh(["sh", "-c", f"docker -H {first.docker_host} save {NAME} | docker -H {host.docker_host} load"])


def image_id(host: Host, name: str = NAME) -> str:
    """An image's id on a host, or nothing."""
    return host.docker("image", "inspect", "--format", "{{.Id}}", name, check=False).strip()


def mounts(engine: Path | None = None) -> list[Mount]:
    """What a container needs to run this machine's programs, and the engine's environment if one is given."""
    folders = [*PROGRAMS, sys.base_prefix]
    if engine is not None:
        base = next(
            line.split("=", 1)[1].strip()
            for line in (engine / "pyvenv.cfg").read_text().splitlines()
            if line.startswith("home")
        )
        folders += [str(engine), str(Path(base).parent)]
    unique = [folder for folder in dict.fromkeys(folders) if not any(folder.startswith(f"{top}/") for top in PROGRAMS)]
    return [Mount(source=folder, target=folder) for folder in unique]
