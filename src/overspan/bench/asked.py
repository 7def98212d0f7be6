"""Lengths that were asked for, beside those that came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from overspan.bench.metrics import summary
from overspan.bench.stream import Stream
from overspan.schema.workload import AskedAndGot, BenchPoint

OFF: Final = 0.05
"""A length that differs from the asked one by more than this is another load. Source: Overspan's choice (issue 16)."""


def asked_and_got(pairs: Iterable[tuple[int | None, int | None]]) -> AskedAndGot | None:
    """The lengths of requests, each as asked and as it came; those of which one is not known are left out."""
    known = [(asked, got) for asked, got in pairs if asked is not None and got is not None]
    if not known:
        return None
    off = sum(abs(got - asked) > max(1, OFF * asked) for asked, got in known)
    difference = sum(abs(got - asked) for asked, got in known) / sum(asked for asked, _ in known)
    return AskedAndGot(
        asked=summary([asked for asked, _ in known]),
        got=summary([got for _, got in known]),
        requests=len(known),
        requests_off=off,
        difference=round(difference, 4),
        off=difference > OFF or off > OFF * len(known),
    )


def ends_of(streams: Sequence[Stream]) -> str:
    """How the answers that are shorter than asked ended, by the server's word."""
    short = [s for s in streams if s.error is None and s.wanted_output and s.output_tokens < s.wanted_output]
    reasons = Counter(stream.finish or "no finish reason" for stream in short)
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))


def length_differences(point: BenchPoint, load: str) -> list[str]:
    """What to say of a point whose prompts or answers are not as long as they were asked to be."""
    notes = []
    for what, lengths in (("prompts", point.input_lengths), ("answers", point.output_lengths)):
        if lengths is not None and lengths.off:
            got, asked = lengths.got.mean, lengths.asked.mean
            notes.append(
                f"at {load} {what} had {got:.10g} tokens on average and {asked:.10g} were asked: "
                f"{lengths.requests_off} of {lengths.requests} requests are off by more than {OFF:.0%}"
                + (f"; the short ones ended with {point.short_ends}" if what == "answers" and point.short_ends else "")
            )
    return notes
