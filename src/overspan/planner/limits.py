"""Limits of latency that a person asks for, as text."""

from __future__ import annotations

from overspan.schema.errors import InputError
from overspan.schema.prediction import Slo


def parse_slo(text: str | None) -> Slo:
    """Limits such as `ttft=2000,tpot=30`.

    Raises:
        InputError: not such a text.
    """
    limits: dict[str, float] = {}
    for part in (text or "").split(",") if text else []:
        name, _, value = part.strip().partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if name not in ("ttft", "tpot") or not 0 < number < float("inf"):
            raise InputError(f"--slo {text}: '{part.strip()}' is no limit", next="write it like ttft=2000,tpot=30 (ms)")
        if f"{name}_ms" in limits:
            raise InputError(f"--slo {text}: {name} is given twice", next="leave one of them out")
        limits[f"{name}_ms"] = number
    return Slo.model_validate(limits)
