"""The connections of a load: opened, idle, waited for, and free again once the body of an answer has ended."""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

from overspan.bench.audit import Audit
from overspan.bench.connection import Connection, connect_error_kind, hold_stamps
from overspan.bench.stream import Stream
from overspan.bench.wire import Garbage, HttpReply
from overspan.endpoint.target import EndpointTarget

LATE_NS: Final = 20_000_000
"""The end of a body comes right behind `[DONE]`; where it does not within this, users wait for it no longer."""


class ConnectionPool(ABC):
    """What a loop knows of its connections. The loop itself sends requests and takes their ends."""

    def __init__(self, target: EndpointTarget) -> None:
        self._epoll = select.epoll()  # first, so that its descriptor is small enough for select()
        self._stamps = hold_stamps()
        self._target = target
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._connecting: dict[int, Connection] = {}
        self._leftovers: dict[Connection, int] = {}  # since when: its answer has ended and its body has not
        self._late_ends = False
        self._waiting: deque[Stream] = deque()
        self.audit = Audit()

    @abstractmethod
    def _send(self, connection: Connection, stream: Stream) -> None: ...

    @abstractmethod
    def _ended(self, stream: Stream) -> None: ...

    def _open(self) -> None:
        self.audit.opened += 1
        try:
            connection = Connection(self._target)
        except OSError as error:
            self._refused(error)
            return
        self._connections[connection.fd] = self._connecting[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _open_for_waiting(self) -> None:
        """As many connections as requests wait for one, less those that are about to be free."""
        while len(self._connecting) + (0 if self._late_ends else len(self._leftovers)) < len(self._waiting):
            self._open()

    def _advance(self, connection: Connection) -> None:
        try:
            opened = connection.advance()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._drop(connection)
            self._refused(error)
            return
        self._watch(connection)
        if opened:
            del self._connecting[connection.fd]
            self._free(connection)

    def _free(self, connection: Connection) -> None:
        """It takes the request that has waited longest, or is idle."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _watch(self, connection: Connection) -> None:
        self._epoll.modify(connection.fd, select.EPOLLIN | (select.EPOLLOUT if connection.wants_write else 0))

    def _read_free(self, connection: Connection, leftover: HttpReply, data: bytes) -> None:
        """The rest of a body whose answer has ended: at its end the connection is free for the next request."""
        try:
            leftover.feed(data)
        except Garbage:
            self._drop(connection)
        if leftover.complete and connection.state != "closed":
            self._late_ends = time.time_ns() - self._leftovers.pop(connection) > LATE_NS
            connection.leftover = None
            leftover.forget()
            if leftover.keep_alive:
                self._free(connection)
            else:
                self._drop(connection)
        self._open_for_waiting()

    def _refused(self, error: OSError) -> None:
        if self._waiting:
            stream = self._waiting.popleft()
            stream.fail(connect_error_kind(error), f"could not connect: {error.strerror or error}", time.time_ns())
            self._ended(stream)

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.fd, None)
        self._connecting.pop(connection.fd, None)
        self._leftovers.pop(connection, None)
        if connection.state != "closed":
            connection.close()

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._stamps.close()
        self._epoll.close()
