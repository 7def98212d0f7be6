"""A scripted host: it answers from a script and starts nothing. It ships, for demonstrations and offline replay."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from overspan.schema.base import Frozen
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.base import Completed


class Reply(Frozen):
    """What one command answers. `argv` holds shell patterns, one for each argument; a last `**` stands for the rest.

    `missing` is a program that is not installed, `unreachable` a host that does not answer; each says the reason.
    """

    argv: list[str]
    stdout: str = ""
    stderr: str = ""
    code: int = 0
    missing: str | None = None
    unreachable: str | None = None

    def answers(self, argv: Sequence[str]) -> bool:
        """Whether this is the reply to that command. An argument equal to its pattern always matches."""
        rest = self.argv[-1:] == ["**"]
        wanted = self.argv[:-1] if rest else self.argv
        if len(argv) < len(wanted) or (len(argv) > len(wanted) and not rest):
            return False
        return all(word == want or fnmatchcase(word, want) for word, want in zip(argv, wanted, strict=False))


class Call(Frozen):
    """A command that the fake was asked to run."""

    argv: list[str]
    stdin: bytes | None = None
    env: dict[str, str] | None = None
    cwd: str | None = None


class Fake:
    """Answers each command with the first reply of the script that matches; what was asked stands in `calls`.

    A reply that is given several times in a row for one command is used in that order, the last one for ever.
    """

    def __init__(self, host: str, script: Iterable[Reply]) -> None:
        self.host = host
        self.calls: list[Call] = []
        self._script = list(script)
        self._used: set[int] = set()
        self._lock = threading.Lock()

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
        """See `Transport.run`. No time passes."""
        call = Call(argv=list(argv), stdin=stdin, env=None if env is None else dict(env), cwd=cwd)
        with self._lock:
            self.calls.append(call)
            reply = self._next(argv)
        if reply is None:
            raise OverspanError(f"no answer is scripted on {self.host} for: {' '.join(argv)}")
        if reply.unreachable is not None:
            raise HostUnreachable(f"{self.host} is unreachable", quote=reply.unreachable)
        if reply.missing is not None:
            raise OverspanError(f"{argv[0]} is not installed on {self.host}", quote=reply.missing)
        return Completed(
            host=self.host, argv=list(argv), code=reply.code, stdout=reply.stdout, stderr=reply.stderr, seconds=0.0
        )

    def lines(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> Iterator[str]:
        """See `Transport.lines`: what the reply holds on both streams."""
        done = self.run(argv, env=env, cwd=cwd)
        yield from done.stdout.splitlines()
        yield from done.stderr.splitlines()
        done.check(argv[0])

    def close(self) -> None:
        """See `Transport.close`."""

    def _next(self, argv: Sequence[str]) -> Reply | None:
        matching = [index for index, reply in enumerate(self._script) if reply.answers(argv)]
        if not matching:
            return None
        fresh = [index for index in matching if index not in self._used]
        chosen = fresh[0] if fresh else matching[-1]
        self._used.add(chosen)
        return self._script[chosen]
