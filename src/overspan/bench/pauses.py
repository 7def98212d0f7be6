"""Times in which the server stood still, found from the requests' own chunks, and the clock without them.

A server that compiles a kernel, tunes one, collects garbage or waits for a rank stops every stream at once. The sign is
that no chunk of any request comes for long, while at least two are being answered: one alone may think, or be held back
by a parser. Two things look like it and are not: a server that sends its chunks in bursts, and the prefill of a request
that holds up the others; it ends with a first token, and takes about as long as other prefills for as many tokens.
"""

from __future__ import annotations

import copy
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import sub
from pathlib import Path
from statistics import median
from typing import Final

from overspan.bench.metrics import Window
from overspan.bench.stream import Stream
from overspan.schema.workload import Pauses

_LEAST_NS: Final = 250_000_000
"""Shorter ones are not counted. Source: Overspan's choice; prefills and schedulers of sound servers stay below."""

_GAPS: Final = 10
"""A pause is longer than so many usual gaps between chunks."""

_PREFILLS: Final = 3
"""A prefill may take so many times as long as others do for a token."""

_BURSTS: Final = 0.02
"""Where the gaps shorter than `_LEAST_NS` make up less of a stream's time than this, its chunks come in bursts."""

_TOGETHER_NS: Final = 5_000_000
"""Chunks of one step of the server are this near to each other at least."""

_SAMPLE: Final = 200_000

DISTURBED_SHARE: Final = 0.01
"""Of a point's time: pauses longer than that make it disturbed."""


def find_pauses(streams: Sequence[Stream]) -> list[Window]:
    """The times in which every stream that was being answered stood still, in their order."""
    begun = [stream for stream in streams if stream.stamps]
    step = _usual_gap(begun)
    if step is None:
        return []
    least = max(_LEAST_NS, _GAPS * step)
    found: list[Window] = []
    prefills: _Prefills | None = None
    for stretch in _stretches(_still(begun, least // 4), max(step, _TOGETHER_NS)):
        long = [still for still in stretch if still.end_ns - still.begin_ns >= least]
        if long:
            prefills = prefills or _Prefills.of(begun, max(step, _TOGETHER_NS))
            found += [] if prefills.explain(Window(stretch[0].begin_ns, stretch[-1].end_ns)) else long
    return found


def _usual_gap(streams: Sequence[Stream]) -> int | None:
    """The median gap between chunks, or between bursts of chunks; None without any. Of many streams a part is read."""
    every = max(1, sum(len(stream.stamps) for stream in streams) // _SAMPLE)
    gaps = [gap for stream in streams[::every] for gap in map(sub, stream.stamps[1:], stream.stamps)]
    long = [gap for gap in gaps if gap >= _LEAST_NS]
    if not gaps:
        return None
    return int(median(long if sum(gaps) - sum(long) < _BURSTS * sum(gaps) else gaps))


def _still(streams: Sequence[Stream], least_ns: int) -> list[Window]:
    """The times of at least this length in which two or more streams were being answered, and no chunk came."""
    edges: list[tuple[int, int, int]] = []  # when, streams begun less ended, long gaps begun less ended
    for stream in streams:
        stamps = stream.stamps
        edges += [(stamps[0], 1, 0), (stamps[-1], -1, 0)]
        if stamps[-1] - stamps[0] >= least_ns:
            long = [pair for pair in pairwise(stamps) if pair[1] - pair[0] >= least_ns]
            edges += [edge for begin, end in long for edge in ((begin, 0, 1), (end, 0, -1))]
    edges.sort()
    found, answered, waiting = [], 0, 0
    for (at, more, still), (after, _, _) in pairwise(edges):
        answered, waiting = answered + more, waiting + still
        if answered == waiting >= 2 and after - at >= least_ns:
            found.append(Window(at, after))
    return found


def _stretches(found: Sequence[Window], together_ns: int) -> list[list[Window]]:
    """Those that only one step of the server parts, as one: a long prefill goes in several steps."""
    stretches: list[list[Window]] = []
    for still in found:
        if stretches and still.begin_ns - stretches[-1][-1].end_ns <= together_ns:
            stretches[-1].append(still)
        else:
            stretches.append([still])
    return stretches


@dataclass
class _Prefills:
    """What prefills take. `first` is when the first token of each request came, ascending."""

    streams: list[Stream]
    first: list[int]
    together_ns: int
    ns_per_token: float | None

    @classmethod
    def of(cls, streams: Sequence[Stream], together_ns: int) -> _Prefills:
        ordered = sorted(streams, key=lambda stream: stream.stamps[0])
        prefills = cls(ordered, [stream.stamps[0] for stream in ordered], together_ns, None)
        rates, before, index = [], 0, 0
        while index < len(ordered):
            batch = prefills._from(ordered[index].stamps[0])
            tokens = _tokens(batch)
            took = batch[0].stamps[0] - max(before, min(stream.send_ns for stream in batch))
            rates += [took / tokens] if tokens else []
            before, index = batch[-1].stamps[0], index + len(batch)
        prefills.ns_per_token = median(rates) if rates else None
        return prefills

    def _from(self, at_ns: int) -> list[Stream]:
        """The requests whose first token came then, or in the same step."""
        begin = bisect_right(self.first, at_ns - 1)
        return self.streams[begin : bisect_right(self.first, at_ns + self.together_ns)]

    def explain(self, still: Window) -> bool:
        """Whether it ended with first tokens, and is no longer than these prefills may take."""
        done = [stream for stream in self._from(still.end_ns) if stream.send_ns < still.end_ns]
        if not done:
            return False
        tokens = _tokens(done)
        if tokens is None or self.ns_per_token is None:
            return True  # how long their prompts were is not known
        return still.end_ns - still.begin_ns <= _PREFILLS * self.ns_per_token * tokens


def _tokens(streams: Sequence[Stream]) -> int | None:
    """Tokens of their prompts; None where the server did not count one."""
    counts = [stream.input_tokens for stream in streams]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def pauses_seen(found: Sequence[Window], logged: int = 0) -> Pauses:
    """How many, and how long.

    Args:
        found: by `find_pauses`.
        logged: how many lines of the engine's log told of one.
    """
    took = [(still.end_ns - still.begin_ns) / 1e9 for still in found]
    longest = round(max(took, default=0.0), 3)
    return Pauses(count=len(took), seconds=round(sum(took), 3), longest_s=longest, logged=logged)


def is_disturbed(seen: Pauses, duration_s: float | None) -> bool:
    """Whether a point's numbers are those of pauses too."""
    return bool(seen.logged) or seen.seconds > DISTURBED_SHARE * (duration_s or 0.0)


class CalmClock:
    """Time in which the pauses did not pass: each is as long as a usual gap."""

    def __init__(self, found: Sequence[Window], streams: Sequence[Stream]) -> None:
        step = _usual_gap([stream for stream in streams if stream.stamps]) or 0
        self._begins = [still.begin_ns for still in found]
        self._cuts = [max(0, still.end_ns - still.begin_ns - step) for still in found]
        self._before = [0, *accumulate(self._cuts)]

    def at(self, time_ns: int) -> int:
        """A moment on this clock."""
        index = bisect_right(self._begins, time_ns)
        if index == 0:
            return time_ns
        inside = min(time_ns - self._begins[index - 1], self._cuts[index - 1])
        return time_ns - self._before[index - 1] - inside

    def window(self, window: Window | None) -> Window | None:
        """A window on this clock."""
        return None if window is None else Window(self.at(window.begin_ns), self.at(window.end_ns))

    def streams(self, streams: Sequence[Stream]) -> list[Stream]:
        """The requests, with their times on this clock."""
        return [self._stream(stream) for stream in streams]

    def _stream(self, stream: Stream) -> Stream:
        calm = copy.copy(stream)
        calm.send_ns, calm.end_ns = self.at(stream.send_ns), self.at(stream.end_ns)
        calm.stamps = array("q", map(self.at, stream.stamps))
        return calm


@dataclass
class EngineLog:
    """The logs of a run's processes, watched for what the engine itself says of its pauses.

    Args:
        folder: with a file a process.
        pattern: of such a line; None where the engine says nothing of the kind.
    """

    folder: Path
    pattern: str | None
    _sizes: dict[Path, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Lines that stand there now do not count."""
        self._sizes = {path: path.stat().st_size for path in self._files()}

    def count(self) -> int:
        """How many lines have told of a pause since."""
        return sum(self._new(path) for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.log")) if self.pattern else []

    def _new(self, path: Path) -> int:
        told = re.compile(self.pattern or "")
        try:
            with path.open("rb") as file:
                file.seek(self._sizes.get(path, 0))
                return sum(bool(told.search(line.decode("utf-8", "replace"))) for line in file)
        except OSError:
            return 0
