"""Tokens that the server counts and never shows: they took time before the first text, and none between texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from overspan.bench.metrics import NS_PER_MS
from overspan.bench.stream import Stream
from overspan.schema.workload import BenchPoint

_LEAST: Final = 0.05
"""Of an answer's tokens: fewer that are not seen change TPOT by less than that."""

_OF_SEVERAL: Final = 0.3
"""The same where chunks hold several words: a word is often more than one token (see `trace.TOKENS_PER_WORD`)."""

_SPACE: Final = 0.5
"""Of the time that hidden tokens would have taken at the pace of the others: with less than this before the first text
and after the last there were none, and chunks hold several tokens."""

_SPECULATED: Final = 0.9
"""Of the tokens beyond chunks and words: with so many accepted drafts, chunks hold several tokens."""

_NOTICED: Final = 1.01
"""A range of TPOT that is narrower than 1 %, or fewer hidden tokens, stand in the point and are not worth a note."""


def settle(streams: Sequence[Stream], accepted: float = 0.0) -> None:
    """Decide for each request how many of its tokens were counted and not seen to come.

    What the server says (`reasoning_tokens`, events without text) is taken. Tokens beyond chunks and their words are
    `unsure` where at least half of the requests had the time to make them unseen, unless speculation explains them.

    Args:
        streams: the requests of a point.
        accepted: drafted tokens that the engine took meanwhile, by its own metrics: each came in a chunk with others.
    """
    counted = [s for s in streams if s.error is None and len(s.stamps) > 1 and s.output_tokens > len(s.stamps)]
    for stream in counted:
        stream.hidden = stream.not_shown
    unsure = [(stream, _unexplained(stream)) for stream in counted]
    if accepted >= _SPECULATED * sum(tokens for _, tokens in unsure):
        return
    if 2 * sum(tokens > 0 for _, tokens in unsure) >= len(unsure):
        for stream, tokens in unsure:
            stream.unsure = tokens


def _unexplained(stream: Stream) -> int:
    """Tokens that can have been made unseen; 0 where nothing points to them."""
    chunks, tokens, stamps = len(stream.stamps), stream.output_tokens, stream.stamps
    if stream.first_usage is not None:
        return 0
    seen = max(chunks, round(chunks * stream.words / max(stream.parsed, 1)))
    between = stream.empties - min(stream.empties, stream.hidden)
    left = tokens - seen - stream.hidden - between
    if left <= (_LEAST if seen == chunks else _OF_SEVERAL) * tokens:
        return 0
    around = stamps[0] - stream.send_ns + stream.end_ns - stamps[-1]
    pace = (stamps[-1] - stamps[0]) / max(seen - 1, 1)
    return left if around >= _SPACE * pace * (left + stream.hidden) else 0


def tpot_range(streams: Sequence[Stream]) -> list[float] | None:
    """The least and the most that TPOT is on average, milliseconds; None where it is known."""
    if not any(stream.unsure for stream in streams):
        return None
    ends: tuple[list[float], list[float]] = ([], [])
    for stream in streams:
        took = (stream.stamps[-1] - stream.stamps[0]) / NS_PER_MS if stream.stamps else 0.0
        seen = stream.rest_tokens
        if stream.error is None and len(stream.stamps) > 1 and seen > 0:
            ends[0].append(took / (seen + stream.unsure))
            ends[1].append(took / seen)
    return [round(sum(each) / len(each), 3) for each in ends]


def unseen_tokens(point: BenchPoint, load: str) -> list[str]:
    """What to say of a point whose server counted tokens that it did not show."""
    several = "s were" if point.unseen_tokens != 1 else " was"
    count = f"at {load} {point.unseen_tokens} token{several} counted and"
    if point.tpot_range_ms is not None:
        low, high = point.tpot_range_ms
        if high <= _NOTICED * low:
            return []
        hidden = f"TPOT is {high:.10g} ms if they were hidden, for which there was time around what was shown"
        return [f"{count} not seen to come: {hidden} (which is given), and {low:.10g} ms if chunks hold several"]
    lengths = point.output_lengths
    counted = (lengths.got.mean or 0.0) * lengths.requests if lengths else 0.0
    if point.unseen_tokens > (_NOTICED - 1) * counted:
        return [f"{count} not shown, such as hidden reasoning: TPOT and TTFT are of the tokens that were seen to come"]
    if point.in_one_piece:
        return [f"at {load} {point.in_one_piece} answers came in one piece: they have no TPOT"]
    return []
