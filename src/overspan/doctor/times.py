"""When a line was written, as far as it says, and the order of lines whose stamps say different things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

DAY_S: Final = 86400
MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True, slots=True)
class Stamp:
    """A time as a line gives it. What the line does not say is none: the year, the date of a bare clock, the zone.

    `clock_s` are seconds from midnight, `offset_s` those by which the zone is before UTC (east is positive).
    """

    clock_s: float
    day: int | None = None
    month: int | None = None
    year: int | None = None
    offset_s: int | None = None

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """What the stamp says: a date, a year, a zone. The greater, the more it says."""
        return self.day is not None, self.year is not None, self.offset_s is not None

    def seconds(self, year: int) -> float:
        """Seconds on one calendar, UTC where the zone is known; in `year` where the stamp says none."""
        days = date(self.year or year, self.month, 1).toordinal() + self.day if self.month and self.day else 0
        return days * DAY_S + self.clock_s - (self.offset_s or 0)


def stamp_of(said: dict[str, str]) -> Stamp | None:
    """The stamp of a line's prefix, from its named parts: `y`, `mo` or `mon`, `d`, `h`, `mi`, `s`, `f`, `zone`."""
    if "h" not in said:
        return None
    fraction = float("0." + said["f"]) if "f" in said else 0.0
    clock = int(said["h"]) * 3600 + int(said["mi"]) * 60 + int(said["s"]) + fraction
    name = said.get("mon", "").lower()
    month = MONTHS.index(name) + 1 if name in MONTHS else int(said.get("mo", 0))
    day, year = int(said.get("d", 0)), int(said.get("y", 0)) or None
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return Stamp(clock)
    return Stamp(clock, day, month, year, _offset_s(said.get("zone", "").strip()))


def _offset_s(zone: str) -> int | None:
    if not zone:
        return None
    if zone in {"Z", "UTC"}:
        return 0
    digits = zone[1:].replace(":", "")
    offset = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -offset if zone[0] == "-" else offset


def on_one_scale(stamps: Sequence[Stamp]) -> tuple[list[float], bool]:
    """The seconds of each stamp on one scale, and whether their order is sure.

    A stamp without a year, or a bare clock, is placed nearest to the first of those that say the most: the logs of one
    run may lie on both sides of New Year, or of midnight. A stamp without a zone is taken for UTC, which containers
    have. The order is not sure where only some stamps have a zone, or only some a date.
    """
    if not stamps:
        return [], True
    fullest = max(stamps, key=lambda stamp: stamp.kind)
    # A leap year: it has all days.
    year = fullest.year or 2000
    origin = fullest.seconds(year)

    def placed(stamp: Stamp) -> float:
        if stamp.year is not None:
            return stamp.seconds(year)
        if stamp.day is not None:
            return min((stamp.seconds(year + shift) for shift in (0, -1, 1)), key=lambda at: abs(at - origin))
        return stamp.clock_s + round((origin - stamp.clock_s) / DAY_S) * DAY_S

    dates, _, zones = (set(said) for said in zip(*(stamp.kind for stamp in stamps), strict=True))
    return [placed(stamp) for stamp in stamps], len(dates) == 1 and len(zones) == 1
