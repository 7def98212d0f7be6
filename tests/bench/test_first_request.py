"""Prompts of exactly the length that is asked for, by the server's own tokenizer."""

import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspan.bench.first_request import exact_words, single
from overspan.bench.run import Bench
from overspan.catalog.words import WORDS
from overspan.endpoint.target import make_target
from overspan.schema.errors import InputError
from overspan.schema.workload import Workload
from support.openai_server import Server, models, plain, prompt_tokens, steady

NOT_ALLOWED = plain("405 Method Not Allowed", b"{}")
LONG = {"school", "student", "government"}  # two tokens each for the server below


def tokens(text: str) -> int:
    """Words and line ends; a long word is two, and `art` is two at the start of a line alone."""
    lines = text.split("\n")
    count = len(lines) - 1
    for line in lines:
        words = line.split()
        count += sum(2 if word in LONG else 1 for word in words)
        count += bool(words) and words[0] == "art" and not line.startswith(" ")
    return count


@given(st.lists(st.sampled_from(WORDS), unique=True))
def test_halving_finds_the_words_of_one_token(words: list[str]) -> None:
    assert single(words, tokens) == [word for word in words if word not in {*LONG, "art"}]


class Tokenizing(Server):
    """A server with /tokenize that counts prompts as it does."""

    asked = 0

    def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
        if head.startswith("GET /tokenize"):
            connection.sendall(NOT_ALLOWED)
        elif head.startswith("POST /tokenize"):
            self.asked += 1
            reply = json.dumps({"count": tokens(json.loads(body)["prompt"]), "max_model_len": 1})
            connection.sendall(plain("200 OK", reply.encode()))
        else:
            super()._reply(head, body, connection)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_every_prompt_has_the_length_that_was_asked(endpoint: str) -> None:
    server = Tokenizing(steady(), models("mock"))
    try:
        load = Workload(concurrency=[2], requests=8, input_tokens=40, output_tokens=4, endpoint=endpoint)
        result = Bench(server.base_url, None, load, calibrated=False).run()
        sent = server.requests[-8:]
    finally:
        server.close()
    assert server.asked > 2
    assert [prompt_tokens(body) for body in sent] == [40] * 8
    texts = [body.get("prompt") or body["messages"][0]["content"] for body in sent]
    assert not LONG & {word for text in texts for word in text.split()}
    assert any("prompts are exact" in note for note in result.notes)


@pytest.mark.parametrize("reply", [b'{"count": "many"}', b"[]", b"no json", b'{"tokens": []}'])
def test_a_server_that_does_not_tell_is_asked_no_more(reply: bytes) -> None:
    class Odd(Server):
        def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
            connection.sendall(NOT_ALLOWED if head.startswith("GET") else plain("200 OK", reply))

    server = Odd(steady(), models("mock"))
    try:
        assert exact_words(make_target(server.base_url), "mock", WORDS) is None
    finally:
        server.close()


@pytest.mark.parametrize(("endpoint", "told"), [("chat", True), ("completions", False)])
def test_a_server_that_fails_at_chats_is_asked_without_their_format(endpoint: str, told: bool) -> None:
    class Broken(Server):
        def _reply(self, head: str, body: bytes, connection: socket.socket) -> None:
            if "/completions" not in head.split("\r\n", maxsplit=1)[0]:
                return super()._reply(head, body, connection)
            connection.sendall(plain("500 Internal Server Error", b'{"error": {"message": "HarmonyError"}}'))
            return None

    server = Broken(steady(), models("mock"))
    load = Workload(concurrency=[1], requests=1, input_tokens=8, output_tokens=4, endpoint=endpoint)
    try:
        with pytest.raises(InputError) as refused:
            Bench(server.base_url, "mock", load, calibrated=False).run()
    finally:
        server.close()
    assert ("--endpoint completions" in (refused.value.next or "")) is told
