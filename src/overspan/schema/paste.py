"""A command for a person to paste into a shell."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """Words as one line of shell, each quoted where it must be.

    Every fix and every next command that holds text from elsewhere (a log, a host, an endpoint, a file's name) is made
    here: `$(...)`, back quotes and quotes stay text. What a terminal would act upon, such as a line's end, is a space.
    """
    return shlex.join("".join(char if char.isprintable() else " " for char in str(word)) for word in words)
