"""Readiness of prefill and decode apart: registered instances, and a transfer that is counted."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from overspan.endpoint.client import Client
from overspan.engines import registry
from overspan.schema.plan import Endpoint
from overspan.verify import transfer


class Router(BaseHTTPRequestHandler):
    """Router and decode worker at once: each question moves `step` tokens over the connector."""

    hits, step, decode = 0, 160, 1

    def do_GET(self) -> None:
        if self.path == "/workers":
            stats = {"prefill_count": 1, "decode_count": self.decode}
            return self.reply(json.dumps({"stats": stats}))
        if self.path == "/health":
            known = [("prefill", "generate"), *[("backend", "generate")] * self.decode, ("backend", "clear_kv_blocks")]
            shown = [{"component": component, "endpoint": endpoint} for component, endpoint in known]
            return self.reply(json.dumps({"status": "healthy", "instances": shown}))
        lines = [
            'vllm:cache_config_info{block_size="16",engine="0"} 1.0',
            f'vllm:external_prefix_cache_hits_total{{engine="0"}} {float(Router.hits)}',
        ]
        return self.reply("\n".join(lines) + "\n")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Router.hits += self.step
        self.reply(json.dumps({"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 1}}))

    def reply(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Router, "hits", 1000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def check(root: str, decode: int = 1, engine: str = "vllm") -> dict[str, Any]:
    client = Client(Endpoint(host="127.0.0.1", port=int(root.rpartition(":")[2]), model="m"))
    try:
        found = transfer.check(client, root, {"prefill": [root], "decode": [root] * decode}, registry.find(engine))
    finally:
        client.close()
    return {finding.rule: finding for finding in found}


def test_a_transfer_is_counted_in_tokens_and_blocks(root: str) -> None:
    found = check(root)
    assert [each.status for each in found.values()] == ["passed", "passed"]
    assert found["disagg.instances"].evidence.text == "registered: 1 of 1 prefill, 1 of 1 decode"
    assert found["disagg.transfer"].evidence.text == "a decode worker took over 160 tokens, 10 blocks of 16"


def test_a_prompt_that_decode_computed_itself_is_a_failure(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Router, "step", 0)
    found = check(root)["disagg.transfer"]
    assert found.status == "failed"
    assert found.cause == "no cache was transferred: the decode worker computed the prompt itself"


def test_a_worker_that_is_not_registered_is_a_failure(root: str) -> None:
    found = check(root, decode=2)["disagg.instances"]
    assert found.status == "failed"
    assert found.cause == "not every worker is registered: 1 of 1 prefill, 1 of 2 decode"


def test_dynamos_frontend_tells_endpoints_by_component(root: str) -> None:
    found = check(root, engine="dynamo")["disagg.instances"]
    assert found.evidence.text == "registered: 1 of 1 prefill, 1 of 1 decode"
    assert found.evidence.file == f"{root}/health"
    assert check(root, decode=2, engine="dynamo")["disagg.instances"].status == "failed"
