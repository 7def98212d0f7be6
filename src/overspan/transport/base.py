"""What every transport can do. Commands are lists of arguments: none is ever joined into text for a shell here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from subprocess import CompletedProcess
from typing import Protocol

from overspan.schema.errors import OverspanError


@dataclass(frozen=True)
class Completed:
    """A command that ended. `code` is its exit status, negative for a signal, as subprocess has it."""

    host: str
    argv: list[str]
    code: int
    stdout: str
    stderr: str
    seconds: float

    @classmethod
    def of(
        cls, host: str, argv: Sequence[str], done: CompletedProcess[bytes], seconds: float, *, exact: bool = False
    ) -> Completed:
        """What subprocess says of a command. With `exact`, bytes of its output that are no UTF-8 stay apart."""
        stdout = done.stdout.decode(errors="surrogateescape" if exact else "replace")
        return cls(host, list(argv), done.returncode, stdout, done.stderr.decode(errors="replace"), seconds)

    def check(self, what: str) -> Completed:
        """Return self when the command succeeded.

        Raises:
            OverspanError: it did not; quotes the last line that it wrote.
        """
        if self.code == 0:
            return self
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        raise OverspanError(
            f"{what} failed on {self.host}: {self.argv[0]} ended with {self.code}",
            quote=lines[-1] if lines else None,
        )


class Transport(Protocol):
    """A way to run commands on one host."""

    host: str

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
        exact: bool = False,
    ) -> Completed:
        """Run a command to its end. `env` is added to the host's own environment.

        Standard output that is no UTF-8 has a mark in each bad byte's place; with `exact` it is as `os.fsdecode` reads
        names of files, so that two names stay two.

        Raises:
            HostUnreachable: the host does not answer.
            OverspanError: the command does not exist there, or ran past `timeout_s`.
        """
        ...

    def lines(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[str]:
        """Run a command and give each line of both its streams as it comes.

        Raises:
            HostUnreachable: the host does not answer, or the connection was lost meanwhile.
            OverspanError: the command ended with an error; quotes its last line.
        """
        ...

    def close(self) -> None:
        """End what connects to the host. What runs there goes on. Twice is fine."""
        ...
