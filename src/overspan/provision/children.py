"""Run a child here and follow what it says; it ends when we do, and what it says carries no secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain

from overspan.schema import secrets
from overspan.schema.errors import OverspanError
from overspan.transport.local import lines_of

_LEAST = 6
"""A shorter value is no secret, and would be found in any text."""


def without_secrets(kept: tuple[str, ...] = ()) -> dict[str, str]:
    """What empties the secrets of this environment for a child; `kept` are beginnings of names that it gets."""
    return {name: "" for name in secrets.values() if not name.startswith(kept)}


def redact(text: str) -> str:
    """The text without the values of secret variables, in case a library quotes one."""
    for value in secrets.values().values():
        if len(value) >= _LEAST:
            text = value.taken_out(text)
    return text


def follow(argv: Sequence[str], on_line: Callable[[str], None], *, env: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, giving each line to `on_line`.

    Raises:
        OverspanError: it ended with an error; quotes its last line.
    """
    with begun(argv, env=env) as lines:
        for line in lines:
            on_line(line)


@contextmanager
def begun(argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Iterator[Iterator[str]]:
    """A command that runs already; its lines are read inside, what is left of them at the end.

    Leaving by an error or an interrupt ends its whole process group.

    Raises:
        OverspanError: it ended with an error; quotes its last line.
    """
    with closing(lines_of(argv, env=without_secrets() if env is None else env, tied=True)) as lines:
        try:
            first = [line for _, line in zip(range(1), lines, strict=False)]  # reading begins it
            rest = chain(first, lines)
            yield (redact(line) for line in rest)
            for _ in rest:
                pass
        except OverspanError as error:
            error.quote = redact(error.quote) if error.quote else None
            raise
