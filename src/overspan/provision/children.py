"""Run a child here and follow what it says; it ends when we do, and what it says carries no secret."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing

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
    """Run a command to its end, giving each line to `on_line`. An error or an interrupt ends its whole process group.

    Args:
        argv: the command.
        on_line: told each line, without the values of secrets.
        env: added to this environment; None takes the secrets out of it.

    Raises:
        OverspanError: it ended with an error; quotes its last line.
    """
    try:
        with closing(lines_of(argv, env=without_secrets() if env is None else env, tied=True)) as lines:
            for line in lines:
                on_line(redact(line))
    except OverspanError as error:
        error.quote = redact(error.quote) if error.quote else None
        raise
