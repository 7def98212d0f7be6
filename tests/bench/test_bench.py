"""A whole bench against a server with known times, and against servers that fail in every way."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from overspan.bench.run import Bench
from overspan.cli.output import document
from overspan.endpoint.target import make_target
from overspan.schema.errors import HostUnreachable, InputError, UnknownName
from overspan.schema.secrets import Secret
from overspan.schema.workload import BenchResult, Workload
from support import openai_server as fake
from support.openai_server import Send, Server, serving, steady


def workload(**changes: Any) -> Workload:
    fields: dict[str, Any] = {"concurrency": [4], "requests": 12, "input_tokens": 32, "output_tokens": 8}
    return Workload.model_validate({**fields, "timeout_s": 10.0, **changes})


def measure(server: Server, folder: Path | None = None, **changes: Any) -> BenchResult:
    return Bench(server.base_url, None, workload(**changes), folder=folder, calibrated=False).run()


def test_a_bench_measures_what_the_server_did(tmp_path: Path) -> None:
    with serving(steady(ttft_s=0.1, itl_s=0.01)) as server:
        result = measure(server, tmp_path, concurrency=[1, 4], output_tokens=21)
    assert result.model == "mock"
    for point in result.points:
        assert (point.requests.planned, point.requests.ok, point.requests.failed) == (12, 12, 0)
        # A busy machine makes the server late, never early; how near to the truth it reads is for benchmarks/.
        assert 100 <= (point.ttft_ms.p50 or 0) < 1000
        assert 5 < (point.tpot_ms.p50 or 0) < 100
        assert point.itl_ms.mean == pytest.approx(point.tpot_ms.mean, abs=0.01)
        assert 300 <= (point.e2e_ms.p50 or 0) < 3000
        assert point.client.timestamps == "kernel"
        assert point.client.concurrency_peak == point.concurrency
    lines = [json.loads(line) for line in (tmp_path / "requests-4.jsonl").read_text().splitlines()]
    assert all(line["ok"] and line["ttft_ms"] >= 100 and len(line["itl_ms"]) == 20 for line in lines)
    assert [line["index"] for line in lines] == list(range(12))
    assert all(line["output_tokens"] == 21 and line["input_tokens"] == 32 for line in lines)
    assert all(
        line["intended_at_ms"] <= line["send_at_ms"] < line["first_token_at_ms"] < line["last_token_at_ms"]
        for line in lines
    )


def test_prompts_have_the_asked_length_and_differ() -> None:
    with serving() as server:
        measure(server, input_tokens=50)
    asked = [request["messages"][0]["content"] for request in server.requests[1:]]
    assert {fake.prompt_tokens(request) for request in server.requests[1:]} == {50}
    assert len({" ".join(text.split()[:16]) for text in asked}) == 12


def test_one_seed_repeats_its_prompts() -> None:
    runs = []
    for seed in (1, 1, 2):
        with serving() as server:
            measure(server, seed=seed)
        runs.append(sorted(json.dumps(request) for request in server.requests))
    assert runs[0] == runs[1] != runs[2]


def test_an_early_role_event_is_no_token() -> None:
    def early(body: dict[str, Any], send: Send, number: int) -> None:
        send(fake.HEAD + fake.chunk(fake.role()))
        time.sleep(0.1)
        send(b"".join(fake.chunk(fake.delta(" a")) for _ in range(7)) + fake.chunk(fake.delta(" a", "length")))
        send(fake.chunk(fake.usage(5, 8)) + fake.chunk(fake.event("[DONE]")) + fake.END)

    with serving(early) as server:
        point = measure(server).points[0]
    assert (point.ttft_ms.p50 or 0) >= 100


def test_many_tokens_a_chunk_do_not_shorten_the_time_per_token() -> None:
    with serving(steady(ttft_s=0.05, itl_s=0.002, per_chunk=32)) as server:
        point = measure(server, output_tokens=128, requests=4).points[0]
    gap = point.chunk_gap_ms.mean or 0
    assert gap > 30
    assert point.tpot_ms.mean == pytest.approx(gap / 32, abs=0.01)  # by all but one: a quarter less
    assert point.itl_ms.mean == pytest.approx(gap / 32, abs=0.01)


def failing(every: int, bad: fake.Behaviour) -> fake.Behaviour:
    good = steady()

    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        (bad if number and number % every == 0 else good)(body, send, number)

    return behave


def broken_stream(body: dict[str, Any], send: Send, number: int) -> None:
    send(fake.HEAD + fake.chunk(fake.delta(" a")) + fake.chunk(fake.delta(" b"))[:-20])
    raise fake.Hangup


def error_event(body: dict[str, Any], send: Send, number: int) -> None:
    error = {"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}}
    send(
        fake.HEAD
        + fake.chunk(fake.delta(" a"))
        + fake.chunk(fake.event(error))
        + fake.chunk(fake.event("[DONE]"))
        + fake.END
    )


def no_tokens(body: dict[str, Any], send: Send, number: int) -> None:
    send(
        fake.HEAD
        + fake.chunk(fake.role())
        + fake.chunk(fake.delta("", "stop"))
        + fake.chunk(fake.event("[DONE]"))
        + fake.END
    )


def no_end(body: dict[str, Any], send: Send, number: int) -> None:
    send(fake.HEAD + fake.chunk(fake.delta(" a")) + fake.END)


def says(status: str) -> fake.Behaviour:
    reply = fake.plain(status, b'{"error":{"message":"slow down"}}')
    return lambda body, send, number: send(reply)


def silent(body: dict[str, Any], send: Send, number: int) -> None:
    send(fake.HEAD)
    time.sleep(1.5)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (broken_stream, "broken_stream"),
        (error_event, "error_event"),
        (no_tokens, "no_tokens"),
        (no_end, "broken_stream"),
        (says("429 Too Many Requests"), "http_429"),
        (says("500 Internal Server Error"), "http_500"),
        (says("401 Unauthorized"), "http_401"),
        (lambda body, send, number: send(b"\x16\x03\x01 garbage\r\n\r\n"), "garbage"),
        (silent, "timeout"),
    ],
)
def test_failures_in_the_middle_are_counted_by_kind(bad: fake.Behaviour, kind: str, tmp_path: Path) -> None:
    with serving(failing(4, bad)) as server:
        point = measure(server, tmp_path, timeout_s=0.8).points[0]
    assert (point.requests.ok, point.requests.failed, point.requests.errors) == (9, 3, {kind: 3})
    assert point.requests.details[kind]
    lines = [json.loads(line) for line in (tmp_path / "requests-4.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines].count(kind) == 3
    assert all(line["detail"] for line in lines if line["error"])


def test_a_server_killed_in_the_middle_leaves_every_request_accounted_for(tmp_path: Path) -> None:
    def dying(body: dict[str, Any], send: Send, number: int) -> None:
        if number == 15:
            threading.Timer(0.01, server.close).start()
        fake.answer(body, send, ttft_s=0.05, itl_s=0.01)

    with serving(dying) as server:
        point = measure(server, tmp_path, requests=40, output_tokens=10).points[0]
    counts = point.requests
    assert counts.ok + counts.failed == counts.planned == 40
    assert counts.ok > 0
    assert set(counts.errors) == {"broken_stream", "connect_refused"}
    assert len((tmp_path / "requests-4.jsonl").read_text().splitlines()) == 40


def test_a_connection_closed_after_each_reply_is_opened_again() -> None:
    def closing(body: dict[str, Any], send: Send, number: int) -> None:
        fake.answer(body, send, ttft_s=0.01, itl_s=0.001)
        raise fake.Hangup

    with serving(closing) as server:
        point = measure(server).points[0]
    assert (point.requests.ok, point.requests.failed) == (12, 0)


def test_the_end_of_a_connection_is_no_read_without_a_stamp() -> None:
    def closing(body: dict[str, Any], send: Send, number: int) -> None:
        answer = fake.HEAD.replace(b"transfer-encoding: chunked", b"connection: close")
        send(answer + fake.delta(" the") + fake.delta(" end", "length") + fake.usage(32, 2) + fake.event("[DONE]"))
        raise fake.Hangup

    with serving(closing) as server:
        point = measure(server).points[0]
    assert point.requests.ok == 12
    assert point.client.timestamps == "kernel"


def test_a_server_that_refuses_unknown_fields_is_asked_plainly() -> None:
    def strict(body: dict[str, Any], send: Send, number: int) -> None:
        if "ignore_eos" in body:
            send(fake.plain("400 Bad Request", b'{"error":{"message":"unknown field ignore_eos"}}'))
        else:
            fake.answer(body, send, ttft_s=0.01, itl_s=0.001)

    with serving(strict) as server:
        result = measure(server)
    assert result.points[0].requests.ok == 12
    assert any("plain OpenAI fields" in note for note in result.notes)


def test_a_server_that_wants_the_newer_limit_gets_it() -> None:
    def newer(body: dict[str, Any], send: Send, number: int) -> None:
        if "max_tokens" in body or "temperature" in body:
            send(fake.plain("400 Bad Request", b'{"error":{"message":"use max_completion_tokens"}}'))
            return
        fake.answer({**body, "max_tokens": body["max_completion_tokens"]}, send, ttft_s=0.01, itl_s=0.001)

    with serving(newer) as server:
        result = measure(server)
    assert result.points[0].requests.ok == 12
    assert server.requests[-1]["max_completion_tokens"] == workload().output_tokens


def test_without_usage_chunks_are_counted_and_it_says_so() -> None:
    def uncounted(body: dict[str, Any], send: Send, number: int) -> None:
        send(fake.HEAD + b"".join(fake.chunk(fake.delta(" a")) for _ in range(5)))
        send(fake.chunk(fake.delta(" a", "stop")) + fake.chunk(fake.event("[DONE]")) + fake.END)

    with serving(uncounted) as server:
        result = measure(server)
    assert any("counts no tokens" in note for note in result.notes)
    assert result.points[0].input_tokens_per_s is None
    assert (result.points[0].output_tokens_per_s or 0) > 0


@pytest.mark.parametrize(
    ("listing", "says"),
    [
        (fake.plain("404 Not Found", b"{}"), "HTTP 404"),
        (fake.plain("200 OK", b"<html>It works!</html>", "text/html"), "lists no model"),
        (fake.plain("401 Unauthorized", b"{}"), "wants a key"),
        (fake.plain("500 Internal Server Error", b'{"detail":"dead"}'), "/models answers HTTP 500"),
        (fake.plain("429 Too Many Requests", b"{}"), "limits requests"),
        (fake.plain("200 OK", b"[" * 100_000), "lists no model"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + b"x" * 9_000_000, "no end"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not answer"),
    ],
)
def test_not_an_openai_endpoint(listing: bytes, says: str) -> None:
    with serving(listing=listing) as server, pytest.raises((InputError, HostUnreachable), match=says):
        measure(server)


def test_a_wrong_model_names_those_served() -> None:
    with serving(listing=fake.models("smollm2-135m")) as server, pytest.raises(UnknownName) as caught:
        Bench(server.base_url, "smollm2-153m", workload()).run()
    assert "did you mean smollm2-135m" in caught.value.what


@pytest.mark.parametrize(
    ("status", "kind"),
    [("401 Unauthorized", "http_401"), ("429 Too Many Requests", "http_429"), ("500 Oops", "http_500")],
)
def test_a_first_request_that_fails_stops_before_the_load(status: str, kind: str) -> None:
    with serving(says(status)) as server, pytest.raises(InputError, match=kind) as caught:
        measure(server)
    assert caught.value.quote == "slow down"
    assert len(server.requests) == (2 if kind == "http_500" else 1), "a failure may be that of ignore_eos"


def test_an_unreachable_url() -> None:
    with serving() as server:
        url = server.base_url
    with pytest.raises(HostUnreachable):
        Bench(url, None, workload())


def test_of_two_addresses_the_one_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        nobody, somebody = ("127.0.0.2", server.port), ("127.0.0.1", server.port)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(*kind, nobody), (*kind, somebody)])
        assert make_target(f"http://localhost:{server.port}/v1").address == (socket.AF_INET, somebody)


def usage_of(prompt: object, completion: object) -> fake.Behaviour:
    def behave(body: dict[str, Any], send: Send, number: int) -> None:
        counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 1}
        last = json.dumps({"choices": [], "usage": counted}).replace('"HUGE"', "9" * 401)
        tokens = [*(fake.delta(" the") for _ in range(7)), fake.delta(" the", "length"), fake.event(last)]
        send(fake.HEAD + b"".join(map(fake.chunk, [*tokens, fake.event("[DONE]")])) + fake.END)

    return behave


@pytest.mark.parametrize("count", ["HUGE", -5, True, 1.5, "8"])
def test_a_usage_that_is_no_count_is_not_counted(count: object) -> None:
    with serving(usage_of(count, count)) as server:
        result = measure(server)
    (point,) = result.points
    assert point.requests.ok == 12
    assert point.output_tokens_per_s == pytest.approx(12 * 8 / (point.duration_s or 0), rel=1e-3)
    assert point.input_tokens_per_s is None
    assert point.miscounted == 12
    assert "which is no count" in (point.miscount or "")


def test_half_a_surrogate_pair_in_an_error_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    reply = fake.plain("500 Oops", b'{"error":{"message":"broken \\ud800 text"}}')
    with serving(failing(4, lambda body, send, number: send(reply))) as server:
        point = measure(server).points[0]
    assert point.requests.details["http_500"] == "broken ? text"
    document({"from a model": "\ud800"})
    assert json.loads(capsys.readouterr().out) == {"from a model": "?"}


@pytest.mark.parametrize("counted", [0.1, 10, None])
def test_usage_is_checked_against_what_was_received(counted: float | None) -> None:
    def wrong(body: dict[str, Any], send: Send, number: int) -> None:
        tokens, after = body["max_tokens"], fake.chunk(fake.event("[DONE]")) + fake.END
        text = b"".join(fake.chunk(fake.delta(" a")) for _ in range(tokens)) if counted else b""
        count = fake.usage(fake.prompt_tokens(body), round(tokens * (counted or 1)))
        send(fake.HEAD + text + fake.chunk(fake.delta("", "stop")) + fake.chunk(count) + after)

    with serving(wrong) as server:
        result = measure(server, output_tokens=32)
    (point,) = result.points
    assert (point.miscounted, point.requests.ok) == (12, 12)
    assert any("not of what came" in note for note in result.notes)


@pytest.mark.parametrize("per_chunk", [1, 8])
def test_an_honest_usage_is_believed(per_chunk: int) -> None:
    with serving(fake.steady(0.01, 0.0005, per_chunk)) as server:
        assert measure(server, output_tokens=32).points[0].miscounted == 0


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x/v1", "http://", "http://a b/v1", "http://x:99999/v1", ""])
def test_not_a_url(url: str) -> None:
    with pytest.raises(InputError):
        make_target(url)


def test_more_connections_than_open_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving() as server, pytest.raises(InputError, match="open files"):
        measure(server, concurrency=[hard + 1])
    assert server.requests == []


def test_the_key_goes_into_the_head_only() -> None:
    with serving() as server:
        result = Bench(server.base_url, None, workload(), api_key=Secret("s3cret")).run()
    assert all("Bearer s3cret" in head for head in server.heads)
    assert "s3cret" not in result.model_dump_json() + repr(make_target(server.base_url, Secret("s3cret")))
