"""64 streams against a server that is killed and restarted: each request is accounted for. Short, and ten minutes."""

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from overspan.bench.run import Bench
from overspan.schema.workload import Workload
from support import mortal_server
from support.runs import free_port
from support.waiting import until

SHORT_S, LONG_S = 40.0, 600.0
USERS = 64


class Mortal:
    """The server, killed and started again until told to stop."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.seconds = seconds
        self.port, self.log, self.deaths = free_port(), folder / "begun", 0
        self._over = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._kill_again_and_again)

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, str(Path(mortal_server.__file__)), str(self.port), str(self.log)]
        return subprocess.Popen(argv)

    def _kill_again_and_again(self) -> None:
        while not self._loaded() and not self._over.wait(0.05):
            pass
        while not self._over.wait(self.seconds / 10):
            self._process.kill()
            self._process.wait()
            self.deaths += 1
            self._over.wait(self.seconds / 100)  # nobody listens for a while
            self._process = self._start()

    def _loaded(self) -> bool:
        """The load has begun: what the client asks before it is over."""
        return self.log.exists() and self.log.stat().st_size >= USERS

    def __enter__(self) -> "Mortal":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._process.kill()
        self._process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seconds", [SHORT_S, pytest.param(LONG_S, marks=pytest.mark.slow)])
def test_every_request_is_accounted_for_while_the_server_dies_again_and_again(seconds: float, tmp_path: Path) -> None:
    size = {"input_tokens": 32, "output_tokens": 32}
    load = Workload(concurrency=[USERS], requests=1, duration_s=seconds, timeout_s=10, **size)
    server = Mortal(tmp_path, seconds)

    until(lambda: listens(server.port), "the server")
    bench = Bench(f"http://127.0.0.1:{server.port}/v1", "mock", load, folder=tmp_path, calibrated=False)
    with server:
        (point,) = bench.run().points
    counts = point.requests
    lines = [json.loads(line) for line in (tmp_path / f"requests-{USERS}.jsonl").read_text().splitlines()]
    assert server.deaths >= 3
    assert counts.failed > 0
    assert counts.ok > 20 * USERS
    # Each request is there once, with one end: all its tokens, or a kind of failure.
    assert counts.planned == counts.ok + counts.failed == len(lines)
    assert sorted(line["index"] for line in lines) == list(range(len(lines)))
    assert all(line["ok"] == (line["error"] is None) for line in lines)
    assert all(line["output_tokens"] == 32 and line["finish_reason"] == "length" for line in lines if line["ok"])
    assert Counter(line["error"] for line in lines if not line["ok"]) == counts.errors
    # The server began at least what the client saw answered; no stream was counted that it never had.
    assert counts.ok <= server.log.stat().st_size
    # The load came back after each death: every user is served in the last third as in the first.
    late = [line for line in lines if line["ok"] and line["end_at_ms"] > 0.67e3 * seconds]
    assert {line["user"] for line in late} == set(range(USERS))
