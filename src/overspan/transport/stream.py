"""Bytes from a program on one host to a program on another, over the fabric where the hosts can reach each other.

`direct`: the source's own ssh, to the target's fabric address; its host key must be known there (an ssh from one to the
other has been made by hand once). Otherwise `through_here`: this machine reads from one and writes to the other.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Host, Ssh
from overspan.transport.base import Transport
from overspan.transport.local import Local
from overspan.transport.ssh import Remote, options, remote_text

PROBE_TIMEOUT_S: Final = 20.0
"""For one ssh from host to host; its own limit for connecting is half of it."""

RouteKind = Literal["direct", "through_here"]


@dataclass(frozen=True)
class End:
    """A host, and the way to it."""

    host: Host
    transport: Transport


def choose_route(source: End, target: End) -> RouteKind:
    """Try whether the source reaches the target by itself. Costs one ssh."""
    if target.host.ssh is None:
        return "through_here"
    probe = source.transport.run(
        [*_over_fabric(source, target), remote_text(["true"], None, None)], timeout_s=PROBE_TIMEOUT_S
    )
    return "direct" if probe.code == 0 else "through_here"


def stream(source: End, produce: Sequence[str], target: End, consume: Sequence[str], route: RouteKind) -> None:
    """Run `produce` on the source and `consume` on the target, the output of one the input of the other.

    Both commands ending well is not yet a proof: a connection that is cut looks like the end of the input. The caller
    checks what arrived.

    Raises:
        OverspanError: one of them ended with an error; quotes its last line.
    """
    text = remote_text(consume, None, None)
    if route == "through_here":
        _pipe(_argv_here(source, produce), _argv_here(target, consume), source, target)
    elif isinstance(source.transport, Local):
        _pipe(list(produce), [*_over_fabric(source, target), text], source, target)
    else:
        both = f"{shlex.join(produce)} | {shlex.join([*_over_fabric(source, target), text])}"
        what = f"copying to {target.host.name}"
        source.transport.run(["sh", "-c", both]).check(what)


def _over_fabric(source: End, target: End) -> list[str]:
    """The ssh that runs on the source. From this machine it is as the inventory says, with the address of the fabric;
    the key of the host is then known by the address that the inventory has."""
    ssh = target.host.ssh
    if ssh is None:
        raise OverspanError(f"{target.host.name} is this machine: no ssh leads to it")
    address = target.host.fabric.address if target.host.fabric is not None else ssh.address
    if isinstance(source.transport, Local):
        alias = ["-o", f"HostKeyAlias={ssh.address}"] if address != ssh.address and ssh.port == 22 else []
        return ["ssh", *options(ssh), *alias, "--", address]
    return ["ssh", *options(Ssh(address=address, user=ssh.user, port=ssh.port)), "--", address]


def _argv_here(end: End, argv: Sequence[str]) -> list[str]:
    """The command to start here so that `argv` runs on that host."""
    if isinstance(end.transport, Remote):
        end.transport.connect()
        return end.transport.command(argv)
    if isinstance(end.transport, Local):
        return list(argv)
    raise OverspanError(f"nothing can be copied to or from {end.host.name}: it is not a real host")


def _pipe(produce: list[str], consume: list[str], source: End, target: End) -> None:
    with tempfile.TemporaryFile() as said_first, tempfile.TemporaryFile() as said_last:
        first = subprocess.Popen(produce, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said_first)
        try:
            last = subprocess.Popen(consume, stdin=first.stdout, stdout=subprocess.DEVNULL, stderr=said_last)
        finally:
            if first.stdout is not None:
                first.stdout.close()  # so that the first is told when the last ends
        try:
            codes = (last.wait(), first.wait())
        finally:
            for process in (first, last):
                if process.poll() is None:
                    process.kill()
                    process.wait()
        for code, said, end in zip(codes, (said_last, said_first), (target, source), strict=True):
            if code != 0:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                raise OverspanError(
                    f"copying from {source.host.name} to {target.host.name} failed on {end.host.name}",
                    quote=lines[-1] if lines else None,
                )
