"""Whatever an endpoint sends, every rule says something of it, and nothing is raised."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from overspan.endpoint import client as clients
from overspan.endpoint.client import Client, NoAnswer
from overspan.endpoint.identify import ServedModel
from overspan.schema.errors import InputError
from overspan.schema.recipe import KnownAnswer
from overspan.store.files import read_document
from overspan.verify import RULES, Subject, verify
from overspan.verify.evaluation import evaluate
from overspan.verify.questions import Question
from overspan.verify.reference import Continuation, Reference

CLIENT = httpx.Client
HERE = ServedModel("http://127.0.0.1:1/v1", "m")
GARBAGE: list[Any] = [None, 5, -1, 1e999, True, "", "x", "\ud800", [], [[]], {}, {"x": 1}, ["a", None], "9" * 5000]
REFERENCE = Reference(
    model="m",
    source="a test",
    continuations=[Continuation(prompt=[5, 6], tokens=[7, 8], logprobs=[-0.25] * 2, margins=[2.0] * 2)],
)
KNOWN = [KnownAnswer(prompt="What is the capital of France?", expect="Paris")]
WORDS = "Wednesday, Thursday and the rest of the days as Paris has them."


def sound(body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer of either form, with all that a rule may look at."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": WORDS}
    call = {"index": 0, "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    if "messages" in body:
        choice["message"] = {"content": WORDS, "reasoning": "Hm.", "tool_calls": [call] if "tools" in body else []}
        choice["delta"] = choice["message"]
    place = {"7": {"rank": 1, "logprob": -0.25}, "8": {"rank": 1, "logprob": -0.25}}
    choice["prompt_logprobs"] = [None, place, place, place]
    choice["logprobs"] = {"tokens": ["a"] * body["max_tokens"]}
    usage = {"prompt_tokens": 9, "completion_tokens": body["max_tokens"], "total_tokens": 9 + body["max_tokens"]}
    return {"choices": [choice], "usage": usage}


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield at
    parts = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, part in parts:
        yield from places(part, (*at, name))


def spoiled(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The document with something else at a place."""
    if not at:
        return value
    changed = copy.deepcopy(document)
    inside = changed
    for name in at[:-1]:
        inside = inside[name]
    inside[at[-1]] = value
    return changed


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[dict[str, Any]], bytes]) -> None:
    """Every request is answered by a function of its body, without a network."""

    def handle(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=answer(json.loads(request.content)))

    def made(**how: Any) -> httpx.Client:
        return CLIENT(**how, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(httpx, "Client", made)


def sent(document: Any, body: dict[str, Any]) -> bytes:
    text = json.dumps(document)
    return f"data: {text}\n\ndata: [DONE]\n\n".encode() if body.get("stream") else text.encode()


def findings() -> set[str]:
    subject = Subject(HERE, known_answers=KNOWN, tools="asked", reasoning="asked", reference=REFERENCE)
    found = verify(subject)
    assert [each.rule for each in found] == ["verify.known-answer", *RULES]
    assert all(each.model_dump_json() for each in found)
    return {each.rule for each in found if each.status == "failed"}


def test_what_is_no_answer_is_found_wrong_and_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    where = sorted(set(places(sound({"messages": [], "tools": [], "max_tokens": 2}))), key=str)
    draw = random.Random(20261123)
    failed: set[str] = set()
    for at in where:
        value = draw.choice(GARBAGE)

        def answer(body: dict[str, Any], at: tuple[Any, ...] = at, value: Any = value) -> bytes:
            document = sound(body)
            return sent(spoiled(document, at, value) if at in set(places(document)) else document, body)

        serve(monkeypatch, answer)
        failed |= findings()
    assert failed == {"verify.known-answer", *RULES}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (("choices", 0), []),  # ended in a traceback: a list has no text
        (("usage",), None),
        (("usage", "completion_tokens"), 1e999),
        (("choices", 0, "text"), 5),
        (("choices", 0, "message", "content"), "\ud800"),
        (("choices", 0, "message", "tool_calls", 0, "function", "arguments"), {"city": "Paris"}),
        (("choices", 0, "prompt_logprobs", 2, "7", "rank"), 1e999),
    ],
)
def test_each_of_these_ended_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, field: tuple[Any, ...], value: object
) -> None:
    def answer(body: dict[str, Any]) -> bytes:
        document = sound(body)
        return sent(spoiled(document, field, value) if field in set(places(document)) else document, body)

    serve(monkeypatch, answer)
    assert findings()


def test_brackets_without_end_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, lambda body: b'{"choices": ' + b"[" * 100_000)
    with pytest.raises(NoAnswer, match="no JSON object"):
        Client(HERE).one_token()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    monkeypatch.setattr(clients, "MOST_BYTES", 2**20)
    event = b'data: {"choices": [{"delta": {"content": "on and on"}}]}\n\n'
    serve(monkeypatch, lambda body: event * 40_000)
    with pytest.raises(NoAnswer, match="more than 1 MiB in one answer"):
        list(Client(HERE).events("/x", {})) if stream else Client(HERE).post("/x", {})


def test_half_of_a_pair_in_an_answer_does_not_lose_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(body: dict[str, Any]) -> bytes:
        return sent(spoiled(sound(body), ("choices", 0, "message", "content"), "Paris \ud800"), body)

    serve(monkeypatch, answer)
    found = evaluate(HERE, None, Path("q.jsonl"), [Question(prompt="?", answer=["Paris"])])
    assert (found.accuracy, found.questions[0].replies) == (1.0, ["Paris \\ud800"])
    assert found.model_dump_json()


def test_a_reference_that_is_sure_of_nothing_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, lambda body: sent(sound(body), body))
    unsure = REFERENCE.continuations[0].with_(margins=[0.1, 0.1])
    reference = REFERENCE.with_(continuations=[unsure])
    (_, found) = verify(Subject(HERE, reference=reference), {"verify.logits": RULES["verify.logits"]})
    assert found.status == "not_evaluated"


def test_a_reference_with_fewer_log_probabilities_than_tokens_is_none(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    document = json.loads(REFERENCE.model_dump_json())
    for field, value, says in (("logprobs", [-0.25], "as many"), ("tokens", [7, 2**31], "less than 2147483648")):
        file.write_text(json.dumps(spoiled(document, ("continuations", 0, field), value)))
        with pytest.raises(InputError, match=rf"continuations\.0.*{says}"):
            read_document(file, Reference, "reference")
