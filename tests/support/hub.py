"""A stand-in for the hub on loopback: the few calls that a download makes, answered as the hub answers them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "a" * 40


class Hub(ThreadingHTTPServer):
    """Serves one model, `org/tiny`; says no to others as the hub does."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.break_once: set[str] = set()
        self.tokens: list[str | None] = []
        self.ranges: list[str] = []
        self.sent: list[str] = []
        self.bytes_sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.tokens.append(self.headers.get("Authorization"))
        if path.startswith("/api/models/org/"):
            self._api(path)
        elif path.startswith("/org/gated/resolve/"):
            self._no(403, "GatedRepo", "Access to model org/gated is restricted")
        elif path.startswith("/org/tiny/resolve/"):
            self._file(path.split("/", 5)[5])
        else:
            self._no(404, "RepoNotFound", "Repository not found")

    def _api(self, path: str) -> None:
        name = path.split("/")[4]
        if name == "private":
            return self._no(401, "RepoNotFound", "Invalid username or password.")
        if name not in ("tiny", "gated"):
            return self._no(404, "RepoNotFound", "Repository not found")
        if "/revision/" in path and path.rpartition("/")[2] not in ("main", SHA):
            return self._no(404, "RevisionNotFound", "Invalid rev id")
        if "/tree/" in path:
            tree = [
                {"type": "file", "oid": _etag(data), "size": len(data), "path": file}
                for file, data in self.server.files.items()
            ]
            return self._json(tree)
        return self._json({"id": f"org/{name}", "modelId": f"org/{name}", "sha": SHA, "siblings": [], "tags": []})

    def _file(self, name: str) -> None:
        data = self.server.files.get(name)
        if data is None:
            return self._no(404, "EntryNotFound", "Entry not found")
        whole, begin, end = data, 0, len(data)
        asked = self.headers.get("Range")
        if asked and self.command == "GET":
            self.server.ranges.append(asked)
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last) + 1) if last else end
        part = (begin, end) != (0, len(data))
        data = data[:end]
        self.send_response(206 if part else 200)
        self.send_header("ETag", f'"{_etag(whole)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - begin))
        if part:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(whole)}")
        self.end_headers()
        if self.command == "HEAD":
            return None
        self.server.sent.append(name)
        self.server.bytes_sent += len(data) - begin
        if name in self.server.break_once:
            self.wfile.write(data[begin : begin + len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(data[begin:])
        return None

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _no(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """The stand-in, running; ended at the end."""
    hub = Hub(files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
