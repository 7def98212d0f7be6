"""How long prompts and answers are: fixed, uniform, normal, or drawn from a file."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from overspan.schema.errors import InputError
from overspan.schema.reading import read_text

_DIGITS = 8
"""Of ten million."""
_FORMS = "128, uniform:64-256, normal:128,32 (mean, deviation) or file:PATH (a number a line)"


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths in tokens. `mean` is what a report calls it."""

    notation: str
    mean: int
    draw: Callable[[random.Random], int]


def parse_lengths(notation: str) -> Lengths:
    """Read the notation of `--input-tokens` and `--output-tokens`.

    Raises:
        InputError: not one of the forms; names them.
    """
    kind, _, rest = notation.strip().partition(":")
    if not rest and kind.isascii() and kind.isdigit():
        fixed = _at_least_one(kind, notation)
        return Lengths(notation, fixed, lambda _: fixed)
    if kind == "uniform":
        low, high = _pair(rest, "-", notation)
        if low > high:
            raise InputError(f"'{notation}': {low} is more than {high}", next=f"write {_FORMS}")
        return Lengths(notation, (low + high) // 2, lambda draw: draw.randint(low, high))
    if kind == "normal":
        mean, deviation = _pair(rest, ",", notation)
        return Lengths(notation, mean, lambda draw: max(1, round(draw.gauss(mean, deviation))))
    if kind == "file" and rest:
        return _from_file(notation, Path(rest))
    raise InputError(f"'{notation}' is not a length", next=f"write {_FORMS}")


def _pair(text: str, separator: str, notation: str) -> tuple[int, int]:
    first, _, second = text.partition(separator)
    return _at_least_one(first, notation), _at_least_one(second, notation)


def _at_least_one(text: str, notation: str) -> int:
    clean = text.strip()
    if not clean.isascii() or not clean.isdigit() or len(clean) > _DIGITS or not 1 <= int(clean) <= 10_000_000:
        raise InputError(f"'{notation}' is not a length: '{clean}' is not a number of tokens", next=f"write {_FORMS}")
    return int(clean)


def _from_file(notation: str, path: Path) -> Lengths:
    try:
        words = read_text(path).split()
    except InputError as error:
        raise InputError(f"'{notation}' cannot be read: {error.what}", next=error.next) from None
    values = [_at_least_one(word, notation) for word in words]
    if not values:
        raise InputError(f"'{notation}' holds no length")
    return Lengths(notation, max(1, round(sum(values) / len(values))), lambda draw: draw.choice(values))
