"""What stands around a load: calibration, shards, the server's metrics, TLS, proxies, runs."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overspan.bench import watch
from overspan.bench.run import Bench
from overspan.bench.self_test import calibrate, compared
from overspan.bench.stream import Stream
from overspan.bench.watch import summarise
from overspan.endpoint.target import make_target
from overspan.engines.vllm import VLLM_METRICS
from overspan.schema.errors import HostUnreachable
from overspan.schema.workload import GaugeSummary, Workload
from support import openai_server as fake
from support.metrics import PAGE
from support.openai_server import Send, serving, steady

MS = 1_000_000


def load(**fields: Any) -> Workload:
    small = {"concurrency": [4], "requests": 12, "input_tokens": 24, "output_tokens": 4, "timeout_s": 10.0}
    return Workload.model_validate({**small, **fields})


def test_calibration_reads_a_known_server() -> None:
    found = calibrate(8)
    assert found.streams == 8
    assert (found.true_ttft_ms or 0) >= 100
    assert (found.ttft_error_ms.mean or 0) > 0  # the way from the client to the server is real


def test_calibration_tells_what_is_off() -> None:
    stream = Stream(0, b"", user=3)
    stream.send_ns, stream.stamps = 1000 * MS, array("q", [1112 * MS, 1132 * MS, 1152 * MS])
    known = {3: (1000 * MS, [1100 * MS, 1120 * MS, 1140 * MS])}
    found = compared([stream], known)
    assert found.ttft_error_ms.mean == 12.0 and found.tpot_error_ms.mean == 0.0
    assert found.reasons == ["calibration: TTFT read +12.00 ms off a true 100.00 ms"]


def test_a_calibrated_point_carries_it() -> None:
    with serving() as server:
        point = Bench(server.base_url, None, load()).run().points[0]
    assert point.client.calibration is not None
    assert point.client.calibration.streams == 4
    assert set(point.client.calibration.reasons) <= set(point.client.reasons)


def test_shards_share_the_load_and_lose_no_request(tmp_path: Path) -> None:
    with serving(steady(ttft_s=0.1)) as server:
        job = Bench(
            server.base_url, None, load(requests=25, concurrency=[6], shards=3), folder=tmp_path, calibrated=False
        )
        point = job.run().points[0]
    assert (point.requests.planned, point.requests.ok) == (25, 25)
    assert (point.client.processes, point.client.concurrency_peak) == (3, 6)
    lines = [json.loads(line) for line in (tmp_path / "requests-6.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(25))
    texts = [request["messages"][0]["content"] for request in server.requests[1:]]
    assert len(set(texts)) == 25


def test_there_are_no_more_processes_than_requests() -> None:
    with serving(steady()) as server:
        point = (
            Bench(server.base_url, None, load(requests=2, concurrency=[4], shards=4), calibrated=False).run().points[0]
        )
    assert (point.requests.ok, point.client.processes) == (2, 2)


def test_an_open_loop_in_shards_keeps_its_times() -> None:
    with serving(steady(ttft_s=0.05)) as server:
        workload = load(concurrency=[], arrival="constant", rates=[50.0], requests=20, shards=2)
        point = Bench(server.base_url, None, workload, calibrated=False).run().points[0]
    assert (point.requests.ok, point.client.processes) == (20, 2)
    assert (point.duration_s or 0) >= 19 / 50


def test_gauges_have_a_maximum_and_counters_a_growth() -> None:
    before = {"running": 1.0, "preemptions": 4.0, "prefix_cache_queries": 100.0, "prefix_cache_hits": 0.0}
    after = {"running": 3.0, "preemptions": 6.0, "prefix_cache_queries": 300.0, "prefix_cache_hits": 50.0}
    samples = [before, after]
    found = summarise(samples, VLLM_METRICS)
    assert found["running"] == GaugeSummary(mean=2.0, max=3.0)
    assert (found["preemptions"], found["prefix_cache_hit_share"]) == (2.0, 0.25)
    assert summarise([], VLLM_METRICS) == {}


def test_the_server_is_watched_during_a_point() -> None:
    class Metered(fake.Server):
        def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
            if head.startswith("GET /metrics"):
                connection.sendall(fake.plain("200 OK", PAGE.encode(), "text/plain"))
            else:
                super()._reply(head, body, connection)

    server = Metered(steady(), fake.models("mock"))
    try:
        point = Bench(server.base_url, None, load(), calibrated=False).run().points[0]
    finally:
        server.close()
    assert point.server["running"] == GaugeSummary(mean=5.0, max=5.0)
    assert int(str(point.server["samples"])) >= 2


def test_metrics_without_an_end_do_not_hold_up_a_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dripping(fake.Server):
        def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
            if not head.startswith("GET /metrics"):
                super()._reply(head, body, connection)
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n")
            while True:
                connection.sendall(b"#")
                time.sleep(0.1)

    monkeypatch.setattr(watch, "_PATIENCE_S", 0.5)
    server = Dripping(steady(), fake.models("mock"))
    try:
        point = Bench(server.base_url, None, load(), calibrated=False).run().points[0]
    finally:
        server.close()
    assert point.requests.ok == point.requests.planned
    assert point.server == {"not_read": "/metrics had no end within 0.5 s"}


@contextmanager
def relayed(port: int, context: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A relay to a port: TLS in front of it, or an HTTP proxy (the first bytes of each connection are kept)."""
    listener = socket.create_server(("127.0.0.1", 0))
    heads: list[bytes] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            sink.close()

    def serve(client: socket.socket) -> None:
        try:
            client = context.wrap_socket(client, server_side=True) if context else client
            first = client.recv(65536)
        except OSError:
            return
        heads.append(first)
        server = socket.create_connection(("127.0.0.1", port))
        server.sendall(first)
        threading.Thread(target=pump, args=(server, client), daemon=True).start()
        pump(client, server)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], heads
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_https_works_and_says_that_it_is_slower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"]
    make += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving() as server, relayed(server.port, context) as (port, _):
        url = f"https://localhost:{port}/v1"
        result = Bench(url, None, load(output_tokens=40), insecure=True, calibrated=False).run()
        with pytest.raises(HostUnreachable, match="certificate") as refused:
            Bench(url, None, load(), calibrated=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Bench(url, None, load(), calibrated=False).model == "mock"
    assert "SSL_CERT_FILE" in str(refused.value.next)
    assert result.points[0].requests.ok == 12
    assert result.points[0].client.timestamps == "user"
    assert any("TLS: a slower path" in note for note in result.notes)


def test_a_proxy_is_used_for_what_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server, relayed(server.port) as (port, heads):
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://user:pass%40word@127.0.0.1:{port}")
        result = Bench("http://model.invalid:8000/v1", None, load(), calibrated=False).run()
    assert result.points[0].requests.ok == 12
    (note,) = [note for note in result.notes if "the proxy" in note]
    assert f"the proxy http://127.0.0.1:{port}," in note
    posts = [head for head in heads if head.startswith(b"POST http://model.invalid:8000/v1/chat/completions HTTP/1.1")]
    assert posts
    # user:pass@word, as curl sends it: https://datatracker.ietf.org/doc/html/rfc7617
    assert all(b"Proxy-Authorization: Basic dXNlcjpwYXNzQHdvcmQ=\r\n" in head for head in posts)


def test_a_proxy_that_is_down_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://user:hidden@127.0.0.1:1")
    with pytest.raises(HostUnreachable, match=r"through the proxy http://127\.0\.0\.1:1 ") as refused:
        Bench("http://model.invalid:8000/v1", None, load(), calibrated=False)
    assert "hidden" not in f"{refused.value} {refused.value.next}"


def test_loopback_takes_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving() as server:
        direct = make_target(server.base_url)
    assert direct.proxy is None


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    def interrupt(body: dict[str, Any], send: Send, number: int) -> None:
        if number == 6:
            threading.Timer(0.05, lambda: __import__("_thread").interrupt_main()).start()
        fake.answer(body, send, ttft_s=0.01 if number < 6 else 3.0, itl_s=0.001)

    with serving(interrupt) as server:
        job = Bench(server.base_url, None, load(concurrency=[2, 4]), folder=tmp_path, calibrated=False)
        result = job.run()
    assert job.interrupted
    (point,) = result.points
    assert point.requests.ok == 5
    assert point.requests.errors == {"cancelled": 2, "not_sent": 5}
    assert "interrupted: 1 of the loads asked for were not begun" in result.notes
