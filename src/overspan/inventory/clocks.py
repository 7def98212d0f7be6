"""How fast a host's GPUs run, and what slows them down: what nvidia-smi prints again and again while a load runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from overspan.schema.errors import OverspanError
from overspan.transport.base import Transport

SLOWED: Final = {
    "clocks_event_reasons.sw_power_cap": "power cap",
    "clocks_event_reasons.hw_power_brake_slowdown": "power brake",
    "clocks_event_reasons.sw_thermal_slowdown": "heat (software)",
    "clocks_event_reasons.hw_thermal_slowdown": "heat (hardware)",
    "clocks_event_reasons.hw_slowdown": "hardware slowdown",
}
"""Why clocks are lower than they could be. Source: `nvidia-smi --help-query-gpu`; idle or set clocks are no such."""

FIELDS: Final = ("index", "clocks.sm", "clocks.max.sm", "power.draw", "enforced.power.limit", "utilization.gpu",
                 "memory.used", *SLOWED)  # fmt: skip
_OLDER: Final = ("clocks_event_reasons.", "clocks_throttle_reasons.")
"""The name since driver 535, and the one before. Source: the same page."""

_NO_FIELD: Final = re.compile(r'Field "([\w.]+)" is not a valid field to query')
_TOLD: Final = ("Active", "Not Active")
_ASK_S: Final = 15.0


@dataclass(frozen=True)
class GpuSample:
    """A GPU at one moment; what it does not tell is none. `slowed` is by the reasons of SLOWED, those that are told."""

    index: int
    sm_mhz: float | None
    max_sm_mhz: float | None
    power_w: float | None
    limit_w: float | None
    busy_percent: float | None
    memory_bytes: float | None
    slowed: dict[str, bool]


def query(fields: Sequence[str], every_ms: int | None = None) -> list[str]:
    """The command; with `every_ms` it goes on until it is ended."""
    again = [f"--loop-ms={every_ms}"] if every_ms else []
    return ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", *again]


def known_fields(host: Transport) -> list[str]:
    """The fields of FIELDS that a host's driver knows, by its names for them.

    Raises:
        OverspanError: nvidia-smi is not there, or does not answer; quotes its line.
    """
    fields = list(FIELDS)
    while True:
        found = host.run(query(fields), timeout_s=_ASK_S)
        unknown = _NO_FIELD.search(found.stdout + found.stderr)
        if unknown is None or unknown[1] not in fields:
            said = (found.stdout.strip() or found.stderr.strip()).splitlines()
            if found.code or not parse_samples(found.stdout, fields):
                raise OverspanError("nvidia-smi tells of no GPU", quote=said[0][:200] if said else None)
            return fields
        older = unknown[1].replace(*_OLDER)
        fields = [older if field == unknown[1] != older else field for field in fields]
        fields = [field for field in fields if field != unknown[1]]


def parse_samples(text: str, fields: Sequence[str]) -> list[GpuSample]:
    """Every whole line in its order; a cell such as `[N/A]` costs that cell alone."""
    samples = []
    for line in text.splitlines():
        cells = dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=False))
        if line.count(",") + 1 != len(fields) or not cells["index"].isdigit():
            continue  # it was cut, or is a word of the driver's
        numbers = {name: float(cell) for name, cell in cells.items() if re.fullmatch(r"\d+(\.\d+)?", cell)}
        reasons = {SLOWED.get(name.replace(_OLDER[1], _OLDER[0]), ""): cell for name, cell in cells.items()}
        memory = numbers.get("memory.used")
        samples.append(
            GpuSample(
                index=int(cells["index"]),
                sm_mhz=numbers.get("clocks.sm"),
                max_sm_mhz=numbers.get("clocks.max.sm"),
                power_w=numbers.get("power.draw"),
                limit_w=numbers.get("enforced.power.limit"),
                busy_percent=numbers.get("utilization.gpu"),
                memory_bytes=None if memory is None else memory * 2**20,
                slowed={name: cell == "Active" for name, cell in reasons.items() if name and cell in _TOLD},
            )
        )
    return samples
