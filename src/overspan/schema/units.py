"""Amounts as text for a person: bytes, durations, rates of a link, counts. The one home of each form."""

from __future__ import annotations

from typing import Final

GIB: Final = 2**30
NOTHING: Final = "-"
"""What stands where there is no value."""


def gib(size_bytes: float | None) -> str:
    """Bytes in GiB: `1.5 GiB`; `-` for none."""
    return NOTHING if size_bytes is None else f"{size_bytes / GIB:.1f} GiB"


def size(size_bytes: float | None) -> str:
    """Bytes in GiB, or in MiB below one: `1.5 GiB`, `273 MiB`; `-` for none."""
    if size_bytes is None or size_bytes >= GIB:
        return NOTHING if size_bytes is None else f"{size_bytes / GIB:,.1f} GiB"
    return f"{size_bytes / 2**20:,.0f} MiB"


def link_rate(bits_per_s: float | None) -> str:
    """The speed of a link: `200 Gbit/s`, or `100 Mbit/s` below one Gbit/s; `-` for none."""
    if bits_per_s is None:
        return NOTHING
    return f"{bits_per_s / 1e9:g} Gbit/s" if bits_per_s >= 1e9 else f"{bits_per_s / 1e6:g} Mbit/s"


def duration(seconds: float | None, *, fractions: bool = False) -> str:
    """A time: `7 s`, `3 min 20 s`, `2 h 05 min`; `-` for none. With `fractions`, `0.31 s` and `12.3 s`."""
    if seconds is None:
        return NOTHING
    if fractions and seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(amount: int, noun: str) -> str:
    """A number of things: `1 user`, `1,024 users`, `2 processes`."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{amount:,} {noun}{'' if amount == 1 else plural}"
