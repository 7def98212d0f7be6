"""Run a child here and follow what it says; it ends when we do, and what it says carries no secret."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain

from overspan.schema.errors import OverspanError
from overspan.transport.local import lines_of

# Source: huggingface_hub, environment variables (the second is its older name).
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
WITHOUT_SECRETS: Mapping[str, str] = dict.fromkeys(SECRETS, "")


def redact(text: str) -> str:
    """The text without the values of secret variables, in case a library quotes one."""
    for name in SECRETS:
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return text


def follow(argv: Sequence[str], on_line: Callable[[str], None], *, env: Mapping[str, str] = WITHOUT_SECRETS) -> None:
    """Run a command to its end, giving each line to `on_line`.

    Raises:
        OverspanError: it ended with an error; quotes its last line.
    """
    with begun(argv, env=env) as lines:
        for line in lines:
            on_line(line)


@contextmanager
def begun(argv: Sequence[str], *, env: Mapping[str, str] = WITHOUT_SECRETS) -> Iterator[Iterator[str]]:
    """A command that runs already; its lines are read inside, what is left of them at the end.

    Leaving by an error or an interrupt ends its whole process group.

    Raises:
        OverspanError: it ended with an error; quotes its last line.
    """
    with closing(lines_of(argv, env=env, tied=True)) as lines:
        try:
            first = [line for _, line in zip(range(1), lines, strict=False)]  # reading begins it
            rest = chain(first, lines)
            yield (redact(line) for line in rest)
            for _ in rest:
                pass
        except OverspanError as error:
            error.quote = redact(error.quote) if error.quote else None
            raise
