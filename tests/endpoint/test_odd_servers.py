"""Servers as they are: no list of models, slashes, redirects, pings, byte order marks, compression, other limits."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from overspan.bench.run import Bench
from overspan.endpoint.client import Client, NoAnswer
from overspan.endpoint.identify import ServedModel, identify
from overspan.endpoint.target import make_target
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.secrets import Secret
from overspan.schema.workload import Workload
from overspan.store.run_folder import open_run
from support.openai_server import END, HEAD, Send, Server, chunk, delta, event, models, plain, serving, steady, usage

KEY = Secret("sk-overspan-hidden")
LOAD = Workload(concurrency=[1], requests=2, input_tokens=16, output_tokens=3)


class Odd(Server):
    """A server whose answer depends on the path: `answers` gives raw bytes, or None for what it would say."""

    answers: Callable[[str], bytes | None]

    def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
        raw = self.answers(head.split(" ")[1])
        if raw is None:
            super()._reply(head, body, connection)
        else:
            self.heads.append(head)
            connection.sendall(raw)


Start = Callable[[Callable[[str], bytes | None]], Odd]


@pytest.fixture
def odd() -> Iterator[Start]:
    started: list[Odd] = []

    def start(answers: Callable[[str], bytes | None]) -> Odd:
        server = Odd(steady(0.0, 0.0), models("mock"))
        server.answers = answers
        started.append(server)
        return server

    yield start
    for server in started:
        server.close()


def redirect(to: str, status: str = "307 Temporary Redirect") -> bytes:
    return f"HTTP/1.1 {status}\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()


def measured(base_url: str, model: str | None = None) -> Any:
    return Bench(base_url, model, LOAD, api_key=KEY, calibrated=False).run()


@pytest.mark.parametrize(
    "listing",
    [
        plain("404 Not Found", b'{"detail": "Not Found"}'),
        plain("405 Method Not Allowed", b""),
        plain("501 Not Implemented", b""),
        plain("200 OK", b'{"object": "list", "data": []}'),
        plain("200 OK", b"{}"),
    ],
)
def test_a_named_model_needs_no_list_of_models(listing: bytes, odd: Start) -> None:
    server = odd(lambda path: listing if path.endswith("/models") else None)
    assert identify(make_target(server.base_url), "mock") == ServedModel(server.base_url, "mock")
    assert measured(server.base_url, "mock").points[0].requests.ok == 2
    assert server.requests[0]["model"] == "mock"
    with pytest.raises(InputError) as refused:
        identify(make_target(server.base_url))
    assert "--model" in str(refused.value.next)


def test_a_slash_at_the_end_of_the_url_changes_nothing() -> None:
    with serving(steady(0.0, 0.0)) as server:
        root = server.base_url.removesuffix("/v1")
        for url in (root, f"{root}/", f"{server.base_url}/"):
            assert measured(url).points[0].requests.ok == 2
        asked = [head.split(" ")[1] for head in server.heads if head.startswith("POST")]
        assert set(asked) == {"/chat/completions", "/v1/chat/completions"}


@pytest.mark.parametrize("to", ["/api/v2{path}", "{path}/"])
def test_a_redirect_on_the_same_server_is_followed_with_the_key(odd: Start, to: str) -> None:
    def answers(path: str) -> bytes | None:
        moves = path.startswith("/v1") and not path.endswith("/")
        return redirect(to.format(path=path)) if moves else None

    server = odd(answers)
    assert measured(server.base_url).points[0].requests.ok == 2
    posted = [head for head in server.heads if head.startswith("POST") and "tokenize" not in head]
    direct = [head for head in posted if head.split(" ")[1] != "/v1/chat/completions"]
    assert len(posted) - len(direct) == 1, "the load itself is not redirected"
    assert all(KEY.get_secret_value() in head for head in direct)
    chat = Client(ServedModel(server.base_url, "mock"), KEY)
    assert "".join(chat.stream([{"role": "user", "content": "hi"}], 3)).split() == ["the"] * 3


def test_a_redirect_to_another_server_is_named_and_gets_no_key_and_no_prompt(odd: Start) -> None:
    with serving(steady(0.0, 0.0)) as other:
        server = odd(lambda path: redirect(f"{other.base_url}/chat/completions?key=sesame") if "chat" in path else None)
        chat = Client(ServedModel(server.base_url, "mock"), KEY)
        for ask in (lambda: measured(server.base_url), lambda: chat.chat("hi", 3)):
            with pytest.raises(OverspanError) as named:
                ask()
            assert other.base_url in named.value.what and "sesame" not in f"{named.value.what}{named.value.next}"
        assert other.heads == []
        away = odd(lambda path: redirect(f"{other.base_url}/models"))
        with pytest.raises(InputError) as listed:
            identify(make_target(away.base_url, KEY))
        assert listed.value.next is not None and listed.value.next.endswith(f"--base-url {other.base_url}")
        assert other.heads == []


def test_a_redirect_that_would_make_a_post_a_get_is_named(odd: Start) -> None:
    server = odd(lambda path: redirect("/login", "302 Found") if "chat" in path else None)
    with pytest.raises(InputError) as named:
        measured(server.base_url)
    assert "/login (HTTP 302)" in named.value.what


def noisy(body: dict[str, Any], send: Send, _: int) -> None:
    """Pings and other named events between the tokens, behind a byte order mark."""
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    other = b'event: metrics\ndata: {"queue": 3}\n\n: keep-alive\n\ndata: {"type": "ping"}\n\n'
    tokens = [delta(" the", "length" if index == 2 else None) for index in range(3)]
    named = b"event: completion\n" + tokens[1]
    send(HEAD + chunk(b"\xef\xbb\xbf" + ping + tokens[0] + other) + chunk(named + tokens[2]))
    send(chunk(usage(23, 3)) + chunk(event("[DONE]")) + END)


def test_named_events_pings_and_a_byte_order_mark_are_read_over() -> None:
    with serving(noisy) as server:
        (point,) = measured(server.base_url).points
        assert (point.requests.ok, point.requests.failed) == (2, 0)
        chat = Client(ServedModel(server.base_url, "mock"))
        assert chat.chat("hi", 3, stream=True).text == " the the the"


def test_a_byte_order_mark_before_a_whole_answer_is_read_over() -> None:
    said = {"choices": [{"message": {"content": "Paris"}, "finish_reason": "stop"}]}
    with serving(lambda body, send, _: send(plain("200 OK", b"\xef\xbb\xbf" + json.dumps(said).encode()))) as server:
        assert Client(ServedModel(server.base_url, "mock")).chat("hi", 3).text == "Paris"


def test_compression_that_nobody_asked_for_is_named() -> None:
    packed = HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n") + chunk(b"\x1f\x8b\x08\x00") + END
    with serving(lambda body, send, _: send(packed)) as server, pytest.raises(InputError) as named:
        measured(server.base_url)
    assert "content-encoding: gzip" in str(named.value.quote)
    assert "Accept-Encoding: identity" in server.heads[-1]


def test_a_client_learns_which_fields_a_server_lacks() -> None:
    """As bench does: OpenAI's reasoning models want max_completion_tokens, and their own temperature."""

    def strict(body: dict[str, Any], send: Send, number: int) -> None:
        for field in ("max_tokens", "temperature", "stream_options"):
            if field in body:
                said = {"error": {"message": f"Unsupported parameter: '{field}' is not supported with this model."}}
                send(plain("400 Bad Request", json.dumps(said).encode()))
                return
        steady(0.0, 0.0)(body | {"max_tokens": body["max_completion_tokens"]}, send, number)

    with serving(strict) as server:
        chat = Client(ServedModel(server.base_url, "mock"))
        assert chat.chat("hi", 3, stream=True).text == " the the the"
        before = len(server.requests)
        assert "".join(chat.stream([{"role": "user", "content": "hi"}], 2)).split() == ["the", "the"]
        assert len(server.requests) == before + 1, "what was refused once is not asked again"


def test_a_refusal_that_names_no_field_is_told() -> None:
    refusal = plain("400 Bad Request", b'{"error": {"message": "the prompt is too long"}}')
    with serving(lambda body, send, _: send(refusal)) as server:
        with pytest.raises(NoAnswer, match="HTTP 400") as told:
            Client(ServedModel(server.base_url, "mock")).chat("hi", 3)
        assert "too long" in str(told.value.quote) and len(server.requests) == 1


def test_a_url_in_the_place_of_a_run_is_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        open_run("http://127.0.0.1:8000/v1?key=sesame")
    assert "sesame" not in f"{refused.value.what}{refused.value.next}" and "--base-url" in str(refused.value.next)
