"""When each request is due. The loop asks; nothing here reads a clock or a socket."""

from __future__ import annotations

import heapq
import math
import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Literal

from overspan.bench.stream import Stream

RequestOf = Callable[[int, int], bytes]
"""The bytes of a user's n-th request, both from 0."""

Arrival = Literal["constant", "poisson", "gamma"]

_AHEAD_BYTES: Final = 16 << 20
"""Requests are made before they are due, so that a burst is not spread by making them; up to this much memory."""

_PREPARED: Final = 4096

_SPARE_CONNECTIONS: Final = 16

PAUSE_NS: Final = 50_000_000
"""How long a user of a closed loop waits after its connection was refused or broke: a server that is starting again
shall not burn every request in a second. Source: Overspan's choice; 20 tries a second and user."""


def pauses(stream: Stream) -> bool:
    """Whether its user waits before the next request."""
    return stream.error is not None and stream.error.startswith(("connect", "tls", "broken"))


class RequestSource(ABC):
    """Gives each request when it is due, and makes requests before they are due, as far as memory goes.

    Args:
        make: the bytes of the n-th request that can be made ahead.
        connections: opened before the start.
        most_ahead: how many requests can be made ahead.
        ready: how many of them there are before the start, so that it is no burst of making them.
    """

    def __init__(self, make: Callable[[int], bytes], *, connections: int, most_ahead: int, ready: int) -> None:
        self.connections = connections
        self.made = 0
        self._make = make
        self._most_ahead = most_ahead
        self._ready = ready
        self._bytes = 0
        self._queue: deque[bytes] = deque()

    @property
    @abstractmethod
    def planned(self) -> int:
        """How many requests there are; where time limits them, how many were taken."""

    @abstractmethod
    def start(self, now_ns: int) -> None:
        """The load begins now."""

    @abstractmethod
    def due_ns(self) -> int | None:
        """When the next request is to be sent; None while none is waiting."""

    @abstractmethod
    def take(self) -> Stream:
        """The next request, with its intended time."""

    @abstractmethod
    def ended(self, stream: Stream, now_ns: int) -> None:
        """A request ended, well or not."""

    def prepare(self) -> None:
        """Make what can be made before the start."""
        while self.made < self._ready:
            if not self.refill():
                return

    def refill(self) -> bool:
        """A quiet moment: make one more request ahead; False when there is nothing to do."""
        if self.made >= self._most_ahead or self._bytes >= _AHEAD_BYTES:
            return False
        request = self._make(self.made)
        self.made += 1
        self._bytes += len(request)
        self._queue.append(request)
        return True

    def _made_ahead(self, index: int) -> bytes:
        """The request with this index; they are taken in order."""
        if not self._queue:
            self.made = index + 1
            return self._make(index)
        request = self._queue.popleft()
        self._bytes -= len(request)
        return request


class ClosedLoop(RequestSource):
    """A fixed number of users, each sending its next request as soon as its last one ended.

    Args:
        users: requests in flight.
        requests: how many in all; None when `duration_s` limits them.
        request_of: see `RequestOf`.
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
        users = min(users, self._limit)
        super().__init__(
            lambda index: request_of(index, 0),
            connections=users,
            most_ahead=users if conversing else self._limit,
            ready=2 * users,
        )
        self._duration_ns = int(duration_s * 1e9) if duration_s is not None else None
        self._end_ns = 1 << 62
        self._ramp_ns = int(ramp_s * 1e9)
        self._taken = 0
        self._request_of = request_of
        self._steps = [0] * users if conversing else None
        self._due: list[tuple[int, int]] = []

    @property
    def planned(self) -> int:
        """See `RequestSource`."""
        return self._taken if self._duration_ns is not None else self._limit

    def start(self, now_ns: int) -> None:
        """See `RequestSource`."""
        step = self._ramp_ns // self.connections
        self._due = [(now_ns + step * user, user) for user in range(self.connections)]
        if self._duration_ns is not None:
            self._end_ns = now_ns + self._duration_ns

    def due_ns(self) -> int | None:
        """See `RequestSource`."""
        if not self._due or self._taken >= self._limit or self._due[0][0] >= self._end_ns:
            return None
        return self._due[0][0]

    def take(self) -> Stream:
        """See `RequestSource`."""
        due, user = heapq.heappop(self._due)
        index, self._taken = self._taken, self._taken + 1
        return Stream(index, self._request(index, user), due, user)

    def _request(self, index: int, user: int) -> bytes:
        if self._steps is None:
            return self._made_ahead(index)
        step, self._steps[user] = self._steps[user], self._steps[user] + 1
        # Users start in their order, so the first request of each was made ahead under the user's number.
        return self._made_ahead(user) if step == 0 else self._request_of(user, step)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `RequestSource`."""
        heapq.heappush(self._due, (now_ns + (PAUSE_NS if pauses(stream) else 0), stream.user))


class OpenLoop(RequestSource):
    """Requests at times of their own, however the server keeps up. Each is a user of its own.

    Args:
        times_s: when each is sent, from the start, ascending.
        connections: how many to open ahead; more are opened when these are busy.
    """

    def __init__(self, times_s: list[float], request_of: RequestOf, *, connections: int) -> None:
        count = len(times_s)
        super().__init__(
            lambda index: request_of(index, 0),
            connections=min(connections, count),
            most_ahead=count,
            ready=_PREPARED,
        )
        self._offsets = [int(time * 1e9) for time in times_s]
        self._next = 0
        self._start_ns = 0

    @property
    def planned(self) -> int:
        """See `RequestSource`."""
        return len(self._offsets)

    def start(self, now_ns: int) -> None:
        """See `RequestSource`."""
        self._start_ns = now_ns

    def due_ns(self) -> int | None:
        """See `RequestSource`."""
        return self._start_ns + self._offsets[self._next] if self._next < self.planned else None

    def take(self) -> Stream:
        """See `RequestSource`."""
        index, self._next = self._next, self._next + 1
        return Stream(index, self._made_ahead(index), self._start_ns + self._offsets[index], index)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `RequestSource`."""


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
