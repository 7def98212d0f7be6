"""How long a bench will take, told before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from overspan.bench.levels import Level, levels_of
from overspan.bench.metrics import Times
from overspan.bench.stream import Stream
from overspan.bench.trace import read_trace
from overspan.schema.workload import Workload, load_words

LONG_S: Final = 300.0
"""A bench that takes longer says so before it starts. Source: Overspan's choice."""

SLOW_MS: Final = 50.0
"""A token: a load that would be long at this pace is looked at more closely."""

PACE_TOKENS: Final = 16
"""Of the answer that tells the pace."""


@dataclass(frozen=True)
class Pace:
    """Of one request on an idle server, milliseconds: to the first token, and for each one after it."""

    first_ms: float = 0.0
    token_ms: float = 0.0

    @classmethod
    def of(cls, stream: Stream) -> Pace:
        """The pace of a request that ended well; without a time a token all of it is spread over its tokens."""
        times = Times.of(stream)
        if times.ttft_ms is None or times.tpot_ms is None:
            each = times.e2e_ms / max(stream.output_tokens, 1)
            return cls(each, each)
        return cls(times.ttft_ms, times.tpot_ms)

    def at_least(self, token_ms: float) -> Pace:
        """The same, with no token faster than this."""
        return Pace(self.first_ms, max(self.token_ms, token_ms))


def takes_s(workload: Workload, pace: Pace) -> float:
    """The least that a bench takes, seconds, at the pace of one request on an idle server: under load it is slower. A
    search counts with its first load alone."""
    levels = levels_of(workload)
    return sum(_level_s(workload, level, pace) for level in (levels[:1] if workload.search else levels))


def _level_s(workload: Workload, level: Level, pace: Pace) -> float:
    request_s = (pace.first_ms + (workload.output_tokens - 1) * pace.token_ms) / 1000
    users, warmup = level.users, workload.warmup
    warm_s = request_s * -(-warmup // min(users or warmup, warmup)) if warmup else 0.0
    if workload.duration_s is not None:
        return warm_s + workload.duration_s
    if users is not None:
        return warm_s + request_s * -(-workload.requests_at(users) // users)
    if level.rate_per_s is not None:
        return warm_s + workload.requests / level.rate_per_s
    return warm_s + read_trace(Path(workload.trace or ""))[0][-1].at_s / workload.trace_speed


def takes_long(workload: Workload, pace: Pace) -> str | None:
    """The sentence that says so, where a bench takes more than five minutes."""
    seconds = takes_s(workload, pace)
    if seconds <= LONG_S:
        return None
    longest = max(levels_of(workload), key=lambda level: _level_s(workload, level, pace))
    load = load_words(longest.users, longest.rate_per_s)
    where = "" if longest.users is None and longest.rate_per_s is None else f", most of them at {load}"
    return f"this bench takes at least {seconds / 60:.0f} minutes{where}; -n and --duration make it shorter"


def slow_under_load(users: int, requests: int, ended: int, elapsed_s: float) -> str | None:
    """The same of a closed loop that runs: each round takes at least as long as it has lasted."""
    left_s = elapsed_s * (requests / max(ended, users) - 1)
    if left_s <= LONG_S:
        return None
    at = f"{load_words(users)} take at least {left_s / 60:.0f} more minutes"
    return f"under load this bench is slower: {at}; -n and --duration make it shorter"
