"""A loopback server that speaks as an OpenAI endpoint, well or badly, as a test asks. One thread a connection."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Send = Callable[[bytes], None]
Behaviour = Callable[[dict[str, Any], Send, int], None]
"""Called with the request's document, a way to send raw bytes, and the request's number from 0."""

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


class Hangup(Exception):
    """Raised by a behaviour: close the connection now."""


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def event(document: dict[str, Any] | str) -> bytes:
    text = document if isinstance(document, str) else json.dumps(document, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


def delta(text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text, **more}, "logprobs": None, "finish_reason": finish}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "mock", "choices": [choice]})


def role() -> bytes:
    return delta("", role="assistant")


def usage(prompt: int, completion: int) -> bytes:
    count = {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}
    return event({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": count})


def prompt_tokens(body: dict[str, Any]) -> int:
    text = body["prompt"] if "prompt" in body else " ".join(m["content"] for m in body["messages"])
    return len(text.split()) + 7


def answer(body: dict[str, Any], send: Send, *, ttft_s: float, itl_s: float, per_chunk: int = 1) -> None:
    """A good answer, each chunk at its time."""
    tokens = body["max_tokens"]
    send(HEAD)
    due = time.monotonic() + ttft_s
    for begin in range(0, tokens, per_chunk):
        time.sleep(max(due - time.monotonic(), 0))
        count = min(per_chunk, tokens - begin)
        send(chunk(delta(" the" * count, "length" if begin + count == tokens else None)))
        due += itl_s * per_chunk
    send(chunk(usage(prompt_tokens(body), tokens)) + chunk(event("[DONE]")) + END)


def steady(ttft_s: float = 0.02, itl_s: float = 0.002, per_chunk: int = 1) -> Behaviour:
    return lambda body, send, _: answer(body, send, ttft_s=ttft_s, itl_s=itl_s, per_chunk=per_chunk)


def plain(status: str, body: bytes, kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def models(*names: str) -> bytes:
    return plain("200 OK", json.dumps({"object": "list", "data": [{"id": name} for name in names]}).encode())


class Server:
    """`requests` holds the document of each POST, in their order."""

    def __init__(self, behaviour: Behaviour, listing: bytes, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self._behaviour = behaviour
        self._listing = listing
        self._listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, Hangup), connection, connection.makefile("rb") as reader:
            while line := reader.readline():
                head = line.decode()
                length = 0
                while (header := reader.readline()) not in (b"\r\n", b""):
                    head += header.decode()
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                self._reply(head, reader.read(length), connection)

    def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
        self.heads.append(head)
        if head.startswith("GET"):
            connection.sendall(self._listing)
            return
        document = json.loads(body)
        with self._lock:
            number = len(self.requests)
            self.requests.append(document)
        self._behaviour(document, connection.sendall, number)

    def close(self) -> None:
        """Stop listening and break every connection, as a killed server does."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(behaviour: Behaviour | None = None, listing: bytes | None = None) -> Iterator[Server]:
    server = Server(behaviour or steady(), models("mock") if listing is None else listing)
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            server.close()
