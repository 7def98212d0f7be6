"""A server that somebody ends in good order: what its parts say of each other afterwards is no failure."""

from __future__ import annotations

from collections.abc import Sequence

from overspan.doctor.book import READY_RULE
from overspan.doctor.scan import Hit, LogScan, PatternCount
from overspan.doctor.times import on_one_scale


def after_end(scan: LogScan, tally: PatternCount, scans: Sequence[LogScan]) -> bool:
    """Whether a pattern was only seen after the end of its server: in the same log, or in another one by time."""
    first = min(tally.first.values(), key=lambda hit: hit.line)
    begun = [one for kind, one in _seen(scan) if kind == "begun"]
    # A server that begins later in the same log is another one.
    here = [hit for hit in _ends(scan) if not any(hit.line < one.last_line <= tally.last_line for one in begun)]
    there = [hit for other in scans if other is not scan for hit in _ends(other)] if len(begun) < 2 else []
    return any(hit.line < first.line for hit in here) or any(_is_later(first, hit) for hit in there)


def _seen(scan: LogScan) -> list[tuple[str, PatternCount]]:
    return [(kind, tally) for (owner, kind, _), tally in scan.tallies.items() if owner == READY_RULE and tally.count]


def _ends(scan: LogScan) -> list[Hit]:
    bad = min((hit.line for hit in scan.anomalies.values()), default=None)
    return [
        hit
        for kind, tally in _seen(scan)
        for hit in tally.first.values()
        # A program that ends by an error says some of this too.
        if kind == "ended" or (kind == "ended_unless_error" and (bad is None or hit.line < bad))
    ]


def _is_later(hit: Hit, end: Hit) -> bool:
    seconds, sure = on_one_scale([one.at for one in (hit, end) if one.at is not None])
    return sure and len(seconds) == 2 and seconds[0] > seconds[1]
