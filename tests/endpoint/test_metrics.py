"""The one reader of `/metrics`."""

import socket

import pytest

from overspan.endpoint.client import NoAnswer, http_client
from overspan.endpoint.metric_names import MetricNames
from overspan.endpoint.metrics import parse_metrics, read_metrics
from overspan.engines.vllm import VLLM_METRICS
from support import openai_server as fake
from support.metrics import PAGE


def test_metrics_of_vllm() -> None:
    assert parse_metrics(PAGE, VLLM_METRICS) == {
        "running": 5.0, "waiting": 7.0, "kv_cache_usage": 0.25, "preemptions": 1.0, "prefix_cache_queries": 1000.0,
    }  # fmt: skip


def test_the_caches_of_two_engines_are_averaged_and_their_requests_summed() -> None:
    page = "".join(
        f'vllm:kv_cache_usage_perc{{engine="{n}"}} {use}\nvllm:num_requests_running{{engine="{n}"}} 2.0\n'
        for n, use in enumerate((0.5, 1.0))
    )
    assert parse_metrics(page, VLLM_METRICS) == {"kv_cache_usage": 0.75, "running": 4.0}


def test_labels_may_hold_what_ends_them() -> None:
    page = 'vllm:num_requests_running{model_name="a}b{c, \\"d\\" 7"} 3.0\n'
    assert parse_metrics(page, VLLM_METRICS) == {"running": 3.0}


def test_a_number_that_stands_in_a_label() -> None:
    page = "".join(f'vllm:cache_config_info{{block_size="{size}",engine="0"}} 1.0\n' for size in ("16", "32", "None"))
    assert parse_metrics(page, VLLM_METRICS) == {"block_tokens": 32.0}


@pytest.mark.parametrize(
    "line",
    ["{", 'm{a="b', 'm{a="b"}', "m 1_0", "m  ", 'm{a="b",a="c"} 1', "m +Inf", "m NaN", "m{} {} 1 2 3", "m",
     "m" * 70_000 + " 1", 'm{a="' + '\\"' * 40_000 + '"} 1', "\0", 'm{"} 1', "m{a} 1_1"],
)  # fmt: skip
def test_a_line_that_is_none_costs_itself_alone(line: str) -> None:
    names = MetricNames(gauges={"m": "ours", "n": "others"})
    assert parse_metrics(f"n 1.0\n{line}\nn 2.0\n", names) == {"others": 3.0}


def page_of(status: str, page: bytes) -> fake.Server:
    class Metered(fake.Server):
        def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
            connection.sendall(fake.plain(status, page, "text/plain"))

    return Metered(fake.steady(), fake.models("m"))


@pytest.mark.parametrize("root", ["", "/v1", "/v1/"])
def test_the_page_stands_beside_the_api(root: str) -> None:
    server = page_of("200 OK", b"n_total 4.0")
    try:
        with http_client(server.base_url, None, 5.0) as http:
            url = f"{server.base_url.removesuffix('/v1')}{root}"
            assert read_metrics(http, url, MetricNames(counters={"n": "n"})) == {"n": 4.0}
    finally:
        server.close()


@pytest.mark.parametrize(
    ("status", "page", "why"), [("503 Busy", b"", "HTTP 503"), ("200 OK", b"#" * (9 << 20), "more than 8 MiB")]
)
def test_what_is_no_page_is_no_answer(status: str, page: bytes, why: str) -> None:
    server = page_of(status, page)
    try:
        with http_client(server.base_url, None, 5.0) as http, pytest.raises(NoAnswer, match=why):
            read_metrics(http, server.base_url, VLLM_METRICS)
    finally:
        server.close()
