"""What the fields of a config.json may be that a twin is made from: fields.yaml, as types and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.yamlio import load

_LARGEST: Final = 2**53
"""Above it a float skips whole numbers."""


class ConfigFields(Frozen):
    """fields.yaml, which says what each is."""

    kept: list[str]
    needed: list[str]
    above_0: list[str]
    from_0: list[str]
    gpu_only: dict[str, str]
    allowed: dict[str, str | list[str]]
    rope: dict[str, str | list[str]]


FIELDS: Final = load(ConfigFields, Path(__file__).with_suffix(".yaml"))


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and least <= value < _LARGEST


_KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "truth": ("true or false", lambda value: isinstance(value, bool)),
    "count": ("a whole number above 0", lambda value: _whole(value, 1)),
    "number": (
        "a number above 0, below 2**53",
        lambda value: type(value) in (int, float) and 0 < value < _LARGEST,
    ),
    # transformers takes no whole number for these two.
    "pointed": (
        "a number with a decimal point, above 0",
        lambda value: type(value) is float and 0 < value < _LARGEST,
    ),
    "fraction": ("a number between 0 and 1, as 1e-6", lambda value: type(value) is float and 0 < value < 1),
    "layers": (
        "a list of layers' numbers",
        lambda value: isinstance(value, list) and all(_whole(layer, 0) for layer in value),
    ),
    "mapping": ("a mapping", lambda value: isinstance(value, dict)),
}


def check(config: Mapping[str, Any], kept: Iterable[str]) -> None:
    """Raises InputError where a kept field is neither absent nor what it may be: names it, and what that is."""
    for field in dict.fromkeys([*kept, "rope_parameters", "rope_scaling"]):
        _check(field, config.get(field), FIELDS.allowed.get(field))
    for field in ("rope_parameters", "rope_scaling"):
        for key, rule in FIELDS.rope.items():
            _check(f"{field}.{key}", (config.get(field) or {}).get(key), rule)


def _check(field: str, value: Any, rule: str | list[str] | None) -> None:
    if value is None or rule is None:
        return
    if isinstance(rule, list):
        words, right = f"one of {', '.join(rule)}" if len(rule) > 1 else rule[0], value in rule
    else:
        words, test = _KINDS[rule]
        right = test(value)
    if not right:
        raise InputError(f"config.json: '{field}' is {repr(value)[:80]}; it must be {words}")
