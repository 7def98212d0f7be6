"""Bytes from a program on one host to a program on another: no scp, no shell text of ours, nothing kept on the way.

`direct`: the source's own ssh, to the target's fabric address; its host key must be known there (an ssh from one to the
other has been made by hand once). Otherwise `through_here`: this machine reads from one and writes to the other.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Final, Literal, Protocol

from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.schema.inventory import Host, Ssh
from overspan.transport.base import Transport
from overspan.transport.local import Local
from overspan.transport.ssh import options, remote_text

PROBE_TIMEOUT_S: Final = 20.0
"""For one ssh from host to host; its own limit for connecting is half of it."""

RouteKind = Literal["direct", "through_here"]


class Pipeable(Transport, Protocol):
    """A transport whose commands are processes of this machine: `Local` and `Remote` are."""

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command to start here so that `argv` runs there."""
        ...

    def connect(self) -> None:
        """Make sure that the host answers."""
        ...

    def failure(self, name: str, code: int, said: str | None) -> OverspanError:
        """What a process's exit code means: a failed command, or a host that does not answer."""
        ...


def pipe(source: Pipeable, producer: Sequence[str], sink: Pipeable, consumer: Sequence[str]) -> None:
    """Run two commands, the output of the first into the second, and wait for both.

    Raises:
        HostUnreachable: one of the hosts does not answer, or was lost meanwhile.
        OverspanError: one of the commands failed; the consumer's failure comes first, since it ends the producer.
    """
    source.connect()
    sink.connect()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as said_there:
        started: list[subprocess.Popen[bytes]] = []
        try:
            first = subprocess.Popen(
                source.command(producer), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
            started.append(first)
            second = subprocess.Popen(
                sink.command(consumer), stdin=first.stdout, stdout=subprocess.DEVNULL, stderr=said_there
            )
            started.append(second)
            if first.stdout is not None:
                first.stdout.close()  # the producer must see it when its reader is gone
            codes = first.wait(), second.wait()
        finally:
            for process in started:
                if process.poll() is None:
                    process.kill()
                process.wait()
        problems = [
            side.failure(argv[0], code, _last(text))
            for side, argv, code, text in ((sink, consumer, codes[1], said_there), (source, producer, codes[0], said))
            if code != 0
        ]
    if problems:
        raise next((problem for problem in problems if isinstance(problem, HostUnreachable)), problems[0])


def _last(text: IO[bytes]) -> str | None:
    text.seek(0)
    lines = text.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else None


@dataclass(frozen=True)
class ReachableHost:
    """A host, and the way to it."""

    host: Host
    transport: Pipeable


def choose_route(source: ReachableHost, target: ReachableHost) -> RouteKind:
    """Try whether the source reaches the target by itself. Costs one ssh."""
    if target.host.ssh is None:
        return "through_here"
    probe = source.transport.run(
        [*_over_fabric(source, target), remote_text(["true"], None, None)], timeout_s=PROBE_TIMEOUT_S
    )
    return "direct" if probe.code == 0 else "through_here"


def stream(
    source: ReachableHost, produce: Sequence[str], target: ReachableHost, consume: Sequence[str], route: RouteKind
) -> None:
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


def _over_fabric(source: ReachableHost, target: ReachableHost) -> list[str]:
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
