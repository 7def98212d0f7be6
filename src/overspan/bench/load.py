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
"""Requests are made before they are due, so that a burst is not spread by making them; up to this much memory."""

_AT_ONCE: Final = 64
_PREPARED: Final = 4096

_SPARE_CONNECTIONS: Final = 16

PAUSE_NS: Final = 50_000_000
"""How long a user of a closed loop waits after its connection was refused or broke: a server that is starting again
shall not burn every request in a second. Source: Overspan's choice; 20 tries a second and user."""


def pauses(stream: Stream) -> bool:
    """Whether its user waits before the next request."""
    return stream.error is not None and stream.error.startswith(("connect", "tls", "broken"))


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

    def refill(self) -> bool:
        """A quiet moment: make one more request ahead; False when there is nothing to do."""
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
        conversing: a user's requests belong together: `request_of` gets the user and its step. Else it gets the number
            of the request and 0, so that requests can be made ahead, whoever sends them.
    """

    def __init__(
        self,
        users: int,
        requests: int | None,
        request_of: RequestOf,
        *,
        duration_s: float | None = None,
        ramp_s: float = 0.0,
        conversing: bool = False,
    ) -> None:
        self._limit = requests if requests is not None else 1 << 60
        self.connections = min(users, self._limit)
        self._duration_ns = int(duration_s * 1e9) if duration_s is not None else None
        self._end_ns = 1 << 62
        self._ramp_ns = int(ramp_s * 1e9)
        self._taken = 0
        self._request_of = request_of
        self._steps = [0] * self.connections if conversing else None
        self._due: list[tuple[int, int]] = []
        self._ahead = Ahead(lambda index: request_of(index, 0), self.connections if conversing else self._limit)

    @property
    def planned(self) -> int:
        """See `Load`."""
        return self._taken if self._duration_ns is not None else self._limit

    def prepare(self) -> None:
        """See `Load`."""
        while self._ahead.more(_AT_ONCE) and self._ahead.made < 2 * self.connections:
            pass

    def refill(self) -> bool:
        """See `Load`."""
        return self._ahead.more(1)

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
        return Stream(index, self._request(index, user), due, user)

    def _request(self, index: int, user: int) -> bytes:
        if self._steps is None:
            return self._ahead.take(index)
        step, self._steps[user] = self._steps[user], self._steps[user] + 1
        # Users start in their order, so the first request of each was made ahead under the user's number.
        return self._ahead.take(user) if step == 0 else self._request_of(user, step)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `Load`."""
        heapq.heappush(self._due, (now_ns + (PAUSE_NS if pauses(stream) else 0), stream.user))


class Ahead:
    """Requests made before they are due, in order, as far as memory is to be spent on it."""

    def __init__(self, make: Callable[[int], bytes], limit: int) -> None:
        self.made = 0
        self._make = make
        self._limit = limit
        self._bytes = 0
        self._queue: deque[bytes] = deque()

    def more(self, count: int) -> bool:
        """Make some more; False when there is enough."""
        for _ in range(count):
            if self.made >= self._limit or self._bytes >= _AHEAD_BYTES:
                return False
            request = self._make(self.made)
            self.made += 1
            self._bytes += len(request)
            self._queue.append(request)
        return True

    def take(self, index: int) -> bytes:
        """The request with this index; they are taken in order."""
        if not self._queue:
            self.made = index + 1
            return self._make(index)
        request = self._queue.popleft()
        self._bytes -= len(request)
        return request


class OpenLoop:
    """Requests at times of their own, however the server keeps up. Each is a user of its own.

    Args:
        times_s: when each is sent, from the start, ascending.
        connections: how many to open ahead; more are opened when these are busy.
    """

    def __init__(self, times_s: list[float], request_of: RequestOf, *, connections: int) -> None:
        self.connections = min(connections, len(times_s))
        self.planned = len(times_s)
        self._offsets = [int(time * 1e9) for time in times_s]
        self._next = 0
        self._start_ns = 0
        self._ahead = Ahead(lambda index: request_of(index, 0), self.planned)

    def prepare(self) -> None:
        """See `Load`."""
        while self._ahead.more(_AT_ONCE) and self._ahead.made < _PREPARED:
            pass

    def refill(self) -> bool:
        """See `Load`."""
        return self._ahead.more(1)

    def start(self, now_ns: int) -> None:
        """See `Load`."""
        self._start_ns = now_ns

    def due_ns(self) -> int | None:
        """See `Load`."""
        return self._start_ns + self._offsets[self._next] if self._next < self.planned else None

    def take(self) -> Stream:
        """See `Load`."""
        index, self._next = self._next, self._next + 1
        return Stream(index, self._ahead.take(index), self._start_ns + self._offsets[index], index)

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
