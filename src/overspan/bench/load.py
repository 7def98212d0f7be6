"""When each request is due. The loop asks; nothing here reads a clock or a socket."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from overspan.bench.stream import Stream

RequestOf = Callable[[int], bytes]

_AHEAD_BYTES: Final = 16 << 20
"""Requests made before the start, so that the first burst is not spread by making them."""


class Load(Protocol):
    """A source of requests."""

    planned: int
    connections: int

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
    """A fixed number of users, each sending its next request as soon as the last one ended.

    Args:
        users: requests in flight.
        requests: how many in all.
        request_of: the bytes of the request with an index.
        ramp_s: the users start one by one over this time; all at once when 0.
        pause_s: how long a user waits after its connection was refused or broke: a server that is starting again
            shall not burn every request in a second.
    """

    def __init__(
        self,
        users: int,
        requests: int,
        request_of: RequestOf,
        *,
        ramp_s: float = 0.0,
        pause_s: float = 0.05,
        measured: bool = True,
    ) -> None:
        self.connections = min(users, requests)
        self.planned = requests
        self._request_of = request_of
        self._ramp_ns = int(ramp_s * 1e9)
        self._pause_ns = int(pause_s * 1e9)
        self._measured = measured
        self._next = 0
        self._due: list[int] = []
        self._ahead: deque[bytes] = deque()

    def prepare(self) -> None:
        """See `Load`."""
        size = 0
        while len(self._ahead) < self.connections and size < _AHEAD_BYTES:
            self._ahead.append(self._request_of(len(self._ahead)))
            size += len(self._ahead[-1])

    def start(self, now_ns: int) -> None:
        """See `Load`."""
        step = self._ramp_ns // self.connections
        self._due = [now_ns + step * user for user in range(self.connections)]

    def due_ns(self) -> int | None:
        """See `Load`."""
        return self._due[0] if self._due and self._next < self.planned else None

    def take(self) -> Stream:
        """See `Load`."""
        due = heapq.heappop(self._due)
        index, self._next = self._next, self._next + 1
        request = self._ahead.popleft() if self._ahead else self._request_of(index)
        return Stream(index, request, due, measured=self._measured)

    def ended(self, stream: Stream, now_ns: int) -> None:
        """See `Load`."""
        broken = stream.error is not None and stream.error.startswith(("connect", "tls", "broken"))
        heapq.heappush(self._due, now_ns + (self._pause_ns if broken else 0))
