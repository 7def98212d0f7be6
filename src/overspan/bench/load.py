"""When each request is due. The loop asks; nothing here reads a clock or a socket."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from overspan.bench.stream import Stream

RequestOf = Callable[[int, int], bytes]
"""The bytes of a user's n-th request, both from 0."""

Arrival = Literal["constant", "poisson", "gamma"]

_AHEAD_BYTES: Final = 16 << 20
"""Requests made before the start, so that the first burst is not spread by making them."""

_SPARE_CONNECTIONS: Final = 16


class Load(Protocol):
    """A source of requests. `connections` are opened before the start."""

    connections: int

    @property
    def planned(self) -> int:
        """How many requests there are; where time limits them, how many were taken."""
        ...

    def prepare(self) -> None:
        """Make what can be made before the start."""
        ...

    def start(self, now_ns: int) -> None:
        """The load begins now."""
        ...

    def due_ns(self) -> int | None:
        """When the next request is to be sent; None while none is waiting."""
        ...

    def take(self) -> Stream:
        """The next request, with its intended time."""
        ...

    def ended(self, stream: Stream, now_ns: int) -> None:
        """A request ended, well or not."""
        ...


class ClosedLoop:
    """A fixed number of users, each sending its next request as soon as its last one ended.

    Args:
        users: requests in flight.
        requests: how many in all; None when `duration_s` limits them.
        duration_s: no request is sent after this long; those in flight end.
        ramp_s: the users start one by one over this time; all at once when 0.
        pause_s: how long a user waits after its connection was refused or broke: a server that is starting again
            shall not burn every request in a second.
        first_user: number of the first user, where several loops share a load.
    """

    def __init__(
        self,
        users: int,
        requests: int | None,
        request_of: RequestOf,
        *,
        duration_s: float | None = None,
        ramp_s: float = 0.0,
        pause_s: float = 0.05,
        first_user: int = 0,
    ) -> None:
        self._limit = requests if requests is not None else 1 << 60
        self.connections = min(users, self._limit)
        self._request_of = request_of
        self._duration_ns = int(duration_s * 1e9) if duration_s is not None else None
        self._end_ns = 1 << 62
        self._ramp_ns = int(ramp_s * 1e9)
        self._pause_ns = int(pause_s * 1e9)
        self._first_user = first_user
        self._taken = 0
        self._steps = [0] * self.connections
        self._due: list[tuple[int, int]] = []
        self._ahead: deque[bytes] = deque()

    @property
    def planned(self) -> int:
        """See `Load`."""
        return self._taken if self._duration_ns is not None else self._limit

    def prepare(self) -> None:
        """See `Load`."""
        size = 0
        while len(self._ahead) < self.connections and size < _AHEAD_BYTES:
            self._ahead.append(self._request_of(self._first_user + len(self._ahead), 0))
            size += len(self._ahead[-1])

    def start(self, now_ns: int) -> None:
        """See `Load`."""
        step = self._ramp_ns // self.connections
        self._due = [(now_ns + step * user, user) for user in range(self.connections)]
        if self._duration_ns is not None:
            self._end_ns = now_ns + self._duration_ns

    def due_ns(self) -> int | None:
        """See `Load`."""
        if not self._due or self._taken >= self._limit or self._due[0][0] >= self._end_ns:
            return None
        return self._due[0][0]

    def take(self) -> Stream:
        """See `Load`."""
        due, user = heapq.heappop(self._due)
        index, self._taken = self._taken, self._taken + 1
        step, self._steps[user] = self._steps[user], self._steps[user] + 1
        # The users start in their order, so what was made ahead is taken in that order too.
        request = self._ahead.popleft() if self._ahead and step == 0 else None
        return Stream(index, request or self._request_of(self._first_user + user, step), due, user)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `Load`."""
        broken = stream.error is not None and stream.error.startswith(("connect", "tls", "broken"))
        heapq.heappush(self._due, (now_ns + (self._pause_ns if broken else 0), stream.user))


class OpenLoop:
    """Requests at times of their own, however the server keeps up. Each is a user of its own.

    Args:
        times_s: when each is sent, from the start, ascending.
        connections: how many to open ahead; more are opened when these are busy.
    """

    def __init__(self, times_s: list[float], request_of: RequestOf, *, connections: int, first_user: int = 0) -> None:
        self.connections = min(connections, len(times_s))
        self.planned = len(times_s)
        self._offsets = [int(time * 1e9) for time in times_s]
        self._request_of = request_of
        self._first_user = first_user
        self._next = 0
        self._start_ns = 0
        self._ahead: deque[bytes] = deque()

    def prepare(self) -> None:
        """See `Load`."""
        size = 0
        while len(self._ahead) < self.planned and size < _AHEAD_BYTES:
            self._ahead.append(self._request_of(self._first_user + len(self._ahead), 0))
            size += len(self._ahead[-1])

    def start(self, now_ns: int) -> None:
        """See `Load`."""
        self._start_ns = now_ns

    def due_ns(self) -> int | None:
        """See `Load`."""
        return self._start_ns + self._offsets[self._next] if self._next < self.planned else None

    def take(self) -> Stream:
        """See `Load`."""
        index, self._next = self._next, self._next + 1
        request = self._ahead.popleft() if self._ahead else self._request_of(self._first_user + index, 0)
        return Stream(index, request, self._start_ns + self._offsets[index], index)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `Load`."""


def arrivals(
    kind: Arrival,
    rate_per_s: float,
    *,
    seed: str,
    requests: int | None,
    duration_s: float | None,
    burstiness: float = 1.0,
) -> list[float]:
    """Absolute times of an open loop, seconds from the start: as many as asked, or all within the duration.

    Gaps are constant, exponential, or gamma with shape `burstiness` (below 1 in bursts, 1 is Poisson, above it more
    even); their mean is 1/rate. The definition of `burstiness` is that of `vllm bench serve --burstiness`.
    """
    gaps = _gaps(kind, rate_per_s, seed, burstiness)
    end = math.inf if duration_s is None else duration_s
    limit = math.inf if requests is None else requests
    times: list[float] = []
    at = 0.0
    while at < end and len(times) < limit:
        times.append(at)
        at += next(gaps)
    return times


def _gaps(kind: Arrival, rate_per_s: float, seed: str, burstiness: float) -> Iterator[float]:
    draw = random.Random(seed)  # noqa: S311 - not for secrets
    while True:
        if kind == "constant":
            yield 1 / rate_per_s
        elif kind == "poisson":
            yield draw.expovariate(rate_per_s)
        else:
            yield draw.gammavariate(burstiness, 1 / rate_per_s / burstiness)


def connections_for(times_s: list[float]) -> int:
    """How many connections an open loop opens ahead: those of its busiest second, and some spare."""
    busiest, low = 0, 0
    for high, time in enumerate(times_s):
        while times_s[low] < time - 1.0:
            low += 1
        busiest = max(busiest, high - low + 1)
    return busiest + _SPARE_CONNECTIONS
