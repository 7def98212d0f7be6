"""A server that knows when it sent each token, for calibration: a process of its own, on absolute times."""

from __future__ import annotations

import contextlib
import heapq
import json
import select
import signal
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def _token(last: bool) -> bytes:
    choice = {"index": 0, "delta": {"content": " the"}, "logprobs": None, "finish_reason": "length" if last else None}
    document = {"id": "chatcmpl-truth", "object": "chat.completion.chunk", "model": "truth", "choices": [choice]}
    event = b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


@dataclass
class _Answer:
    connection: socket.socket
    received: bytes = b""
    user: int = -1
    asked_ns: int = 0
    sent_ns: list[int] = field(default_factory=list)


class TruthServer:
    """Answers every request with `tokens` tokens, the first after `ttft_ns`, the others `itl_ns` apart."""

    def __init__(self, ttft_ns: int, itl_ns: int, tokens: int) -> None:
        self._ttft_ns, self._itl_ns, self._tokens = ttft_ns, itl_ns, tokens
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._answers: dict[int, _Answer] = {}
        self._due: list[tuple[int, int]] = []
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def serve_until(self, pipe: Connection) -> dict[int, tuple[int, list[int]]]:
        """Serve until a message comes; return when each user's request came and its tokens were sent, nanoseconds."""
        self._epoll.register(pipe.fileno(), select.EPOLLIN)
        while True:
            self._send_due()
            limit = (self._due[0][0] - time.time_ns()) / 1e9 if self._due else 1.0
            if limit > 0.0015:
                events = self._epoll.poll(limit - 0.001)
            else:  # the poll counts milliseconds
                time.sleep(max(limit, 0))
                events = self._epoll.poll(0)
            for fd, _ in events:
                if fd == pipe.fileno():
                    return {a.user: (a.asked_ns, a.sent_ns) for a in self._answers.values() if a.user >= 0}
                self._accept() if fd == self._listener.fileno() else self._receive(fd)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._answers[connection.fileno()] = _Answer(connection)
                self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, fd: int) -> None:
        answer = self._answers[fd]
        data = answer.connection.recv(65536)
        if not data:
            self._epoll.unregister(fd)
            return
        now = time.time_ns()
        answer.received += data
        _, found, body = answer.received.partition(b"\r\n\r\n")
        if found and b"}" in body:
            answer.user, answer.asked_ns = json.loads(body)["user"], now
            heapq.heappush(self._due, (now + self._ttft_ns, fd))

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= time.time_ns():
            due, fd = heapq.heappop(self._due)
            answer = self._answers[fd]
            last = len(answer.sent_ns) + 1 == self._tokens
            message = (b"" if answer.sent_ns else _HEAD) + _token(last) + (_END if last else b"")
            answer.sent_ns.append(time.time_ns())
            with contextlib.suppress(OSError):  # the client hung up: its own count tells
                answer.connection.send(message)
            if not last:
                heapq.heappush(self._due, (due + self._itl_ns, fd))


def serve(pipe: Connection, ttft_ns: int, itl_ns: int, tokens: int) -> None:
    """Body of the process: send the port, serve, and send the truth when told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server = TruthServer(ttft_ns, itl_ns, tokens)
    pipe.send(server.port)
    truth: Any = server.serve_until(pipe)
    pipe.send(truth)
