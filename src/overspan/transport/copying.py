"""Bytes from one host to another through standard input: no scp, no shell text, nothing kept on the way.

`pipe` joins two commands on any two hosts, as `docker save` here and `docker load` there.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Protocol

from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.base import Transport


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
