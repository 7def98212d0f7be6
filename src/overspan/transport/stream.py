"""Bytes from a program on one host to a program on another, over the fabric where the hosts can reach each other.

`direct`: the source's own ssh, to the target's fabric address; its host key must be known there (an ssh from one to the
other has been made by hand once). Otherwise `through_here`: this machine reads from one and writes to the other.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from overspan.schema.errors import OverspanError
from overspan.schema.inventory import Host, Ssh
from overspan.transport.copying import Pipeable, pipe
from overspan.transport.local import Local
from overspan.transport.ssh import options, remote_text

PROBE_TIMEOUT_S: Final = 20.0
"""For one ssh from host to host; its own limit for connecting is half of it."""

RouteKind = Literal["direct", "through_here"]


@dataclass(frozen=True)
class End:
    """A host, and the way to it."""

    host: Host
    transport: Pipeable


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
        pipe(source.transport, produce, target.transport, consume)
    elif isinstance(source.transport, Local):
        pipe(source.transport, produce, source.transport, [*_over_fabric(source, target), text])
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
