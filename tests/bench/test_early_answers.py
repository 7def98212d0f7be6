"""A server may answer before it has taken the whole request, as one does that refuses its size."""

import contextlib
import socket
import threading

from overspan.bench.load import ClosedLoop
from overspan.bench.loop import Loop
from overspan.endpoint.target import make_target

TOO_LONG = b"HTTP/1.1 413 Content Too Large\r\ncontent-type: text/plain\r\ncontent-length: 8\r\n\r\ntoo long"
MORE_THAN_BUFFERS = 64 << 20


def test_what_was_not_taken_is_not_followed_by_the_next_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    held.append(connection)
                    connection.recv(4096)
                    connection.sendall(TOO_LONG)

        threading.Thread(target=serve, daemon=True).start()
        target = make_target(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        request = b"%bcontent-length: %d\r\n\r\n" % (target.head("/chat/completions"), MORE_THAN_BUFFERS)
        request += bytes(MORE_THAN_BUFFERS)
        ended = Loop(target, ClosedLoop(1, 2, lambda user, step: request), timeout_s=5.0).run()
        assert [stream.error for stream in ended] == ["http_413"] * 2
        assert len(held) == 2, "each on a connection of its own"
        for connection in held:
            connection.close()
