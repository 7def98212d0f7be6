"""A fact is a command, a parser and captured outputs of it (tests/inventory/<fact>/<case>.txt)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from overspan.schema.base import Frozen
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.base import Transport

Value = TypeVar("Value")

TIMEOUT_S: Final = 20.0
"""For one fact: nvidia-smi without persistence mode takes seconds to wake eight GPUs, all else far less."""


class Unreadable(ValueError):
    """The output of a fact's command is not what its parser knows; the message says what was found."""


class Capture(Frozen):
    """What one command wrote, as `--save` keeps it. `missing` says why it never ran."""

    fact: str
    argv: list[str]
    code: int | None = None
    stdout: str = ""
    stderr: str = ""
    missing: str | None = None


@dataclass(frozen=True)
class Fact(Generic[Value]):
    """One thing to know about a host. `parse` is pure: it takes what the command wrote on standard output.

    `absent`: words of the command's last line that say that there is nothing to know, as where it is not installed.
    """

    name: str
    argv: list[str]
    parse: Callable[[str], Value]
    absent: str = "No such file or directory"


@dataclass(frozen=True)
class Seen(Generic[Value]):
    """A fact's value, or the reason why there is none. `absent`: the program or file is not there at all."""

    value: Value | None
    why: str = ""
    absent: bool = False


def ask(transport: Transport, fact: Fact[Value], *, cwd: str | None = None) -> Capture:
    """Run a fact's command, with messages in English.

    Raises:
        HostUnreachable: the host does not answer.
    """
    try:
        done = transport.run(fact.argv, env={"LC_ALL": "C"}, cwd=cwd, timeout_s=TIMEOUT_S)
    except HostUnreachable:
        raise
    except OverspanError as error:
        return Capture(fact=fact.name, argv=fact.argv, missing=error.what)
    return Capture(fact=fact.name, argv=fact.argv, code=done.code, stdout=done.stdout, stderr=done.stderr)


def read(fact: Fact[Value], capture: Capture | None) -> Seen[Value]:
    """The value that a capture holds, or why it holds none. Never raises: a damaged capture is an unknown fact."""
    if capture is None:
        return Seen(None, "it was not captured")
    if capture.missing is not None:
        return Seen(None, capture.missing, absent="is not installed" in capture.missing)
    last = (capture.stderr.strip().splitlines() or [""])[-1]
    if capture.code != 0 and not capture.stdout.strip():
        return Seen(None, last or f"{fact.argv[0]} ended with {capture.code}", fact.absent in last)
    try:
        return Seen(fact.parse(capture.stdout))
    except Unreadable as error:
        return Seen(None, f"{fact.argv[0]}: {last or error}")
