"""Versions of engines, of CUDA and of drivers, compared as PEP 440 says."""

from __future__ import annotations

import re

from packaging.version import Version


def version_of(text: str | None) -> Version | None:
    """The release of a version: `v0.16.0rc2+cpu` as 0.16.0; None where the text begins with none (`nightly`)."""
    found = re.match(r"v?([0-9]+(?:\.[0-9]+)+)", text or "")
    return Version(found[1]) if found else None


def holds(condition: str, version: str) -> bool:
    """Whether a version meets a condition, compared in as many numbers as that has: `<=0.27` holds for 0.27.1.

    Args:
        condition: `<`, `<=`, `>`, `>=`, `=` or `==`, and numbers with points.
        version: numbers with points, and what may follow them; without any, no condition holds.
    """
    from packaging.specifiers import Specifier  # imported when asked: 10 ms, and few commands compare like this

    operator, wanted = re.fullmatch(r"([<>=]{1,2}) ?([0-9.]+)", condition.strip()).groups()  # type: ignore[union-attr]
    found = re.match(r"v?([0-9]+(?:\.[0-9]+)*)", version)
    if found is None:
        return False
    compared = found[1].split(".")[: len(wanted.split("."))]
    return Specifier(f"{'==' if operator == '=' else operator}{wanted}").contains(".".join(compared))
