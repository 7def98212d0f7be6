"""Numbers, durations and commands as text for a person: the report's filters."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import HIDDEN, is_secret

NOTHING = "–"
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def plain(text: object) -> str:
    """Text of a log without terminal colours."""
    return _ANSI.sub("", str(text))


def digits(values: Iterable[float | None]) -> int:
    """Decimals that a whole column shares: about three figures of its smallest value."""
    smallest = min((abs(value) for value in values if value), default=0.0)
    return 0 if smallest >= 100 or smallest == 0 else 1 if smallest >= 10 else 2


def number(value: float | None, decimals: int) -> str:
    """A number with thousands set apart, or a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def column(values: Sequence[float | None]) -> list[str]:
    """A column's numbers with the same decimals, so that they line up."""
    decimals = digits(values)
    return [number(value, decimals) for value in values]


def figure(value: float) -> str:
    """One number for a sentence: `415`, `44`, `4.2`, `0.31`."""
    return number(value, 0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2)


def ranges(numbers: Sequence[int]) -> str:
    """`0-3, 8`: ranks or GPU indices with runs of them joined."""
    spans: list[list[int]] = []
    for item in sorted(numbers):
        if spans and item == spans[-1][1] + 1:
            spans[-1][1] = item
        else:
            spans.append([item, item])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans) or NOTHING


def visible_argv(argv: Sequence[str]) -> list[str]:
    """The argv with the value of each option that may hold a secret hidden."""

    def names_secret(word: str) -> bool:
        return word.startswith("-") and "=" not in word and is_secret(word)

    shown: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        option, equals, _ = word.partition("=")
        if equals and names_secret(option):
            shown.append(f"{option}={HIDDEN}")
        else:
            shown.append(HIDDEN if names_secret(before) and not word.startswith("-") else word)
    return shown


def command(spec: ProcessSpec) -> str:
    """The process as a command to paste: environment, then argv, quoted, an option a line.

    A secret stands as `NAME="$NAME"`: the shell that it is pasted into supplies it.
    """
    secrets = {*spec.secrets, *(name for name in spec.env if is_secret(name))}
    words = [f'{name}="${name}"' for name in sorted(secrets)]
    words += [f"{name}={shlex.quote(value)}" for name, value in sorted(spec.env.items()) if name not in secrets]
    lines = [f"cd {shlex.quote(spec.cwd)} &&"] if spec.cwd else []
    lines += ["env", *(f"  {word}" for word in words)] if words else []
    for index, word in enumerate(visible_argv(spec.argv)):
        if index == 0:
            lines.append(shlex.quote(word))
        elif word.startswith("-") and len(word) > 1:
            lines.append("  " + shlex.quote(word))
        else:
            lines[-1] += " " + shlex.quote(word)
    return " \\\n".join(lines)
