"""An answer ends at `[DONE]`: when its body ends, or its connection, is the server's matter."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.run import Bench
from overspan.schema.workload import Workload
from support import openai_server as fake
from support.openai_server import HEAD, Send, Server, serving


def measure(server: Server, folder: Path | None = None, **changes: Any) -> Any:
    fields = {"concurrency": [3], "requests": 12, "input_tokens": 24, "output_tokens": 4, "timeout_s": 8.0}
    load = Workload.model_validate({**fields, **changes})
    return Bench(server.base_url, None, load, folder=folder, calibrated=False).run().points[0]


def until_done(body: dict[str, Any]) -> bytes:
    tokens = [fake.delta(" the") for _ in range(body["max_tokens"] - 1)]
    counted = fake.usage(fake.prompt_tokens(body), body["max_tokens"])
    return b"".join(map(fake.chunk, [*tokens, fake.delta(" end", "length"), counted, fake.event("[DONE]")]))


UNTIL_CLOSED = HEAD.replace(b"transfer-encoding: chunked", b"connection: close")


@pytest.mark.parametrize("head", [HEAD, UNTIL_CLOSED], ids=["chunked", "until closed"])
@pytest.mark.parametrize("arrival", [{}, {"concurrency": [], "arrival": "constant", "rates": [200.0]}])
def test_a_body_without_an_end_holds_up_nobody(head: bytes, arrival: dict[str, Any], tmp_path: Path) -> None:
    measured = threading.Event()

    def held(body: dict[str, Any], send: Send, number: int) -> None:
        answer = until_done(body)
        send(head + (answer if head is HEAD else b"".join(answer.split(b"\r\n")[1::2])))
        measured.wait(60)  # a bench that waits for the end of the body times out before this
        raise fake.Hangup

    with serving(held) as server:
        point = measure(server, tmp_path, **arrival)
        measured.set()
    assert (point.requests.ok, point.requests.errors) == (12, {})
    lines = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert all(line["e2e_ms"] < 8000 for line in lines) and len(lines) == 12


def test_the_end_that_comes_right_behind_frees_the_connection() -> None:
    def apart(body: dict[str, Any], send: Send, number: int) -> None:
        send(HEAD + until_done(body))
        time.sleep(0.002)
        send(fake.END)

    with serving(apart) as server:
        point = measure(server, requests=60)
    assert point.requests.ok == 60
    assert point.client.connections_opened <= 6, "a connection is used again once its body has ended"


@pytest.mark.parametrize("behind", [b"not a chunk\r\n", fake.chunk(fake.delta(" more")) + fake.END])
def test_what_comes_behind_done_is_no_part_of_the_answer(behind: bytes) -> None:
    def more(body: dict[str, Any], send: Send, number: int) -> None:
        send(HEAD + until_done(body))
        time.sleep(0.005)
        send(behind)

    with serving(more) as server:
        point = measure(server)
    assert (point.requests.ok, point.miscounted) == (12, 0)


def test_a_connection_that_breaks_behind_done_broke_no_answer() -> None:
    def hangup(body: dict[str, Any], send: Send, number: int) -> None:
        send(HEAD + until_done(body))
        raise fake.Hangup

    with serving(hangup) as server:
        point = measure(server)
    assert (point.requests.ok, point.requests.errors) == (12, {})
