"""The loop: one epoll, raw sockets, a stamp just before each send and the kernel's stamp of each arrival."""

from __future__ import annotations

import gc
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from overspan.bench.connection import STAMP, Connection
from overspan.bench.load import RequestSource
from overspan.bench.pool import LATE_NS, ConnectionPool
from overspan.bench.process import raise_open_files
from overspan.bench.read_delay import ReadDelay
from overspan.bench.stream import READ_BYTES, Stream
from overspan.endpoint.target import EndpointTarget

CONNECT_TIMEOUT_S: Final = 10.0
"""A connection that takes longer is refused. Source: Overspan's choice; a LAN's round trip takes under 1 ms."""

_CONNECTING_AT_ONCE: Final = 128
"""Under the smallest common listen backlog (Linux before 5.4: 128)."""

_STALE_NS: Final = 100_000_000
"""A kept-alive connection that the server closed just as we sent breaks within a round trip; later is a failure."""

_LEFT_NS: Final = 1_000_000_000
"""A connection whose body has no end by then is closed."""

_CLOSED: Final = "the server closed the connection"
_LAG_SAMPLE: Final = 8
_PROGRESS_NS: Final = 500_000_000
_PARSED_A_TURN: Final = 8
_CHECK_NS: Final = 20_000_000

LoadProgress = Callable[[int, int, int], None]


class Loop(ConnectionPool):
    """Runs one load against one target.

    Args:
        timeout_s: a request that takes longer, from its send, has failed.
        progress: called about twice a second with ended, failed and in flight.
        before_start: called when all is ready; may wait for others.
    """

    def __init__(
        self,
        target: EndpointTarget,
        load: RequestSource,
        *,
        timeout_s: float,
        progress: LoadProgress | None = None,
        before_start: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(target)
        self._load = load
        self._timeout_ns = int(timeout_s * 1e9)
        self._progress = progress
        self._before_start = before_start or (lambda: None)
        self._next_progress = self._next_check = 0
        self._deadlines: deque[tuple[int, Stream, Connection]] = deque()
        self._in_flight = self._failed = 0
        self._sending = False
        self._ahead = True  # there may be requests to make ahead
        self._delay = ReadDelay()
        self._unparsed: deque[Connection] = deque()
        self.ended: list[Stream] = []

    def run(self, *, whole: bool = False) -> list[Stream]:
        """Run the load to its end; every request taken from it is in the answer, well or failed.

        Ctrl-C ends it early: what was in flight is `cancelled`, and `audit.cancelled` is set.

        Args:
            whole: the load is worth nothing in part.

        Raises:
            KeyboardInterrupt: Ctrl-C ended a load that is worth nothing in part.
        """
        raise_open_files(self._load.connections)
        self._load.prepare()
        gc.collect()
        gc.freeze()
        gc.disable()
        audit = self.audit
        try:
            self._open_ahead()
            self._before_start()
            drift = time.time_ns() - time.monotonic_ns()
            cpu, wall = time.process_time(), time.monotonic()
            audit.started_ns = time.time_ns()
            self._load.start(audit.started_ns)
            self._turn_until_ended()
            audit.ended_ns = time.time_ns()
            audit.cpu_s, audit.wall_s = time.process_time() - cpu, time.monotonic() - wall
            audit.clock_drift_ns = time.time_ns() - time.monotonic_ns() - drift
        finally:
            self._close()
            gc.enable()
            gc.unfreeze()
        if whole and audit.cancelled:
            raise KeyboardInterrupt
        return self.ended

    def _open_ahead(self) -> None:
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        wanted = self._load.connections
        while (self.audit.opened < wanted or self._connecting) and time.monotonic() < deadline:
            while self.audit.opened < wanted and len(self._connecting) < _CONNECTING_AT_ONCE:
                self._open()
            before = len(self._idle)
            self._poll(0.05)
            if len(self._idle) > before:
                deadline = time.monotonic() + CONNECT_TIMEOUT_S

    def _turn_until_ended(self) -> None:
        try:
            while True:
                now = time.time_ns()
                self._send_due(now)
                due = self._load.due_ns()
                if not self._in_flight and not self._waiting and due is None:
                    return
                if now >= self._next_check:
                    self._check_deadlines(now)
                if not self._unparsed and not self._ahead:
                    self._wait(due, now)
                elif not self._poll(0) and not self._unparsed:
                    self._ahead = self._load.refill()
                self._parse_some(_PARSED_A_TURN)
                self._tell(now)
        except KeyboardInterrupt:
            self._cancel()

    def _wait(self, due: int | None, now: int) -> None:
        most = 0.005 if self._waiting and self._leftovers else 0.05
        limit = most if due is None else min((due - now) / 1e9, most)
        if limit <= 0:
            return
        if pause := self._delay.pause_s(self._in_flight, limit):
            time.sleep(pause)
        if limit > 0.0015 or due is None:
            self._poll(limit if due is None else limit - 0.001)
        else:  # epoll counts milliseconds, select microseconds
            if self._epoll.fileno() < 1024:
                select.select([self._epoll], [], [], limit)
            self._poll(0)

    def _poll(self, timeout_s: float) -> bool:
        events = self._epoll.poll(timeout_s, 1024)
        self._delay.events = len(events)
        if not events:
            return False
        polled = time.time_ns()
        for fd, mask in events:
            connection = self._connections.get(fd)
            if connection is None:
                continue
            if mask == select.EPOLLIN and connection.direct:
                self._read(connection, polled)
            else:
                self._turn(connection, mask, polled)
        self.audit.batches.append(time.time_ns() - polled)
        return True

    def _turn(self, connection: Connection, mask: int, polled: int) -> None:
        if connection.state != "open":
            self._advance(connection)
        elif mask & select.EPOLLOUT and connection.unsent:
            self._write(connection)
        elif connection.direct:
            self._read(connection, polled)
        else:
            self._read_tls(connection, polled)

    def _read(self, connection: Connection, polled: int) -> None:
        try:
            data, ancillary, _, _ = connection.recvmsg(READ_BYTES, 128)
        except BlockingIOError:
            return
        except OSError as error:
            self._broke(connection, error)
            return
        audit = self.audit
        audit.reads += 1
        if ancillary:
            seconds, nanoseconds = STAMP.unpack_from(ancillary[0][2])
            stamp = seconds * 1_000_000_000 + nanoseconds
            if not audit.reads % _LAG_SAMPLE:
                audit.lags.append(time.time_ns() - stamp)
        else:
            stamp = polled
            audit.unstamped += bool(data)  # the end of a connection carries no stamp
        stream = connection.stream
        if stream is None or not data:
            self._without_stream(connection, data)
        elif stream.unparsed or not stream.quick(data, stamp):
            if not stream.unparsed:
                self._unparsed.append(connection)
            stream.unparsed.append((data, stamp))

    def _parse_some(self, count: int) -> None:
        """Reading comes first: what must be parsed waits, with its stamp, until nothing is to be read."""
        for _ in range(min(count, len(self._unparsed))):
            self._parse(self._unparsed.popleft())

    def _parse(self, connection: Connection) -> None:
        stream = connection.stream
        if stream is None:
            return
        reads, stream.unparsed = stream.unparsed, []
        for number, (data, stamp) in enumerate(reads, 1):
            if stream.take(data, stamp):
                self._end(connection, stream, b"".join(data for data, _ in reads[number:]))
                return

    def _read_tls(self, connection: Connection, polled: int) -> None:
        while connection.state == "open":
            try:
                data = connection.read()
            except BlockingIOError:
                return
            except OSError as error:
                self._broke(connection, error)
                return
            self.audit.reads += 1
            self.audit.unstamped += 1
            stream = connection.stream
            if stream is None or not data:
                self._without_stream(connection, data)
            elif stream.take(data, polled):
                self._end(connection, stream)
            if not connection.buffered:
                return

    def _end(self, connection: Connection, stream: Stream, behind: bytes = b"") -> None:
        """A request ended: by the end of its body, or by `[DONE]` before it. `behind` was read after that."""
        connection.stream = None
        reply = stream.reply
        leftover = None if connection.unsent else stream.hand_over()
        if leftover is not None:
            connection.leftover = leftover
            self._leftovers[connection] = time.time_ns()
            if behind:
                self._read_free(connection, leftover, behind)
        elif reply.complete and reply.keep_alive and stream.error != "garbage" and not connection.unsent and not behind:
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._ended(stream)

    def _without_stream(self, connection: Connection, data: bytes) -> None:
        """Bytes for no request, or the end of the connection."""
        if data and connection.leftover is not None:
            self._read_free(connection, connection.leftover, data)
        else:
            self._broke(connection)

    def _ended(self, stream: Stream) -> None:
        now = time.time_ns()
        if stream.send_ns:
            self._in_flight -= 1
            self._delay.took(stream.end_ns - stream.send_ns)
        self._failed += stream.error is not None
        stream.forget()
        self.ended.append(stream)
        self._load.ended(stream, now)
        self._send_due(now)

    def _broke(self, connection: Connection, error: OSError | None = None) -> None:
        self._parse(connection)
        stream, used = connection.stream, connection.used
        if connection in self._idle:
            self._idle.remove(connection)
        self._drop(connection)
        if stream is None:
            self._open_for_waiting()
            return
        now = time.time_ns()
        untouched = not stream.reply.status and now - stream.send_ns < _STALE_NS
        if used > 1 and untouched and not stream.retried:
            self.audit.stale_retries += 1
            stream.restart()
            self._in_flight -= 1
            self._waiting.appendleft(stream)
            self._open()
            return
        stream.closed(now, f"the connection broke ({error.strerror or error})" if error else _CLOSED)
        self._ended(stream)

    def _send_due(self, now: int) -> None:
        if self._sending:  # a request that fails at once ends inside its own send: the outer turn goes on with the next
            return
        self._sending = True
        load = self._load
        due = load.due_ns()
        while due is not None and due <= now:
            stream = load.take()
            self._ahead = True
            if self._idle:
                self._send(self._idle.pop(), stream)
            else:
                self._waiting.append(stream)
                self._open_for_waiting()
            due = load.due_ns()
        self._sending = False

    def _send(self, connection: Connection, stream: Stream) -> None:
        connection.stream = stream
        connection.used += 1
        connection.unsent = stream.request
        self._in_flight += 1
        stream.send_ns = sent = time.time_ns()
        self._deadlines.append((sent + self._timeout_ns, stream, connection))
        self._write(connection)

    def _write(self, connection: Connection) -> None:
        before = connection.wants_write
        try:
            connection.write()
        except OSError as error:
            self._broke(connection, error)
            return
        if before != connection.wants_write:
            self._watch(connection)

    def _check_deadlines(self, now: int) -> None:
        self._next_check = now + _CHECK_NS
        deadlines = self._deadlines
        while deadlines and (deadlines[0][0] <= now or deadlines[0][1].end_ns):
            _, stream, connection = deadlines.popleft()
            self._parse(connection)
            if stream.end_ns or connection.stream is not stream:
                continue
            self._drop(connection)
            stream.fail("timeout", f"not ended {self._timeout_ns / 1e9:g} s after its send", now)
            self._ended(stream)
        if deadlines and deadlines[0][2].kernel_stamps:
            self._delay.gap(deadlines[0][1].stamps)
        for connection, since in list(self._leftovers.items()):
            self._late_ends = self._late_ends or now - since > LATE_NS
            if now - since > _LEFT_NS:
                self._drop(connection)
        self._open_for_waiting()
        for connection in [c for c in self._connecting.values() if now - c.opened_ns > CONNECT_TIMEOUT_S * 1e9]:
            self._drop(connection)
            self._refused(TimeoutError(110, f"no answer within {CONNECT_TIMEOUT_S:g} s"))

    def _cancel(self) -> None:
        self.audit.cancelled = True
        self._parse_some(len(self._unparsed))
        now = time.time_ns()
        streams = [connection.stream for connection in self._connections.values() if connection.stream is not None]
        for stream in [*streams, *self._waiting]:
            stream.fail("cancelled", "interrupted", now)
            stream.forget()
            self.ended.append(stream)
        self._waiting.clear()
        self._in_flight = 0

    def _tell(self, now: int) -> None:
        if self._progress is not None and now >= self._next_progress:
            self._next_progress = now + _PROGRESS_NS
            self._progress(len(self.ended), self._failed, self._in_flight)
