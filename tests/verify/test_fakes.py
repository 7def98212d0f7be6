"""Endpoints that are wrong in ways which look right at a glance, and sound ones that look wrong; without a network."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from overspan.endpoint.identify import ServedModel
from overspan.schema.finding import Finding
from overspan.verify import RULES, SHORT, Subject, verify
from overspan.verify.load import TOPICS
from overspan.verify.reference import Continuation, Reference

CLIENT = httpx.Client
ANSWERS = (
    "The capital of France is Paris, a city on the river Seine.",
    "The count is one, two, three, four, five, six, seven.",
    "The sky is blue because air scatters blue light more.",
    "The four animals are dog, cat, horse and cow as asked.",
    "The sum of two plus two is four, as everyone knows.",
    "The phrase is buenos dias, said until noon in Spain.",
    "The play Hamlet was written by William Shakespeare.",
    "The Pacific is a large ocean, the largest on Earth.",
)
WEEK = " Wednesday, Thursday, Friday, Saturday and Sunday, which makes seven in all, as you know from school."
STORY = "The lighthouse keeper was a man who lived alone in the old stone tower. " * 15
OTHER = Reference(
    model="other/model",
    source="a test",
    continuations=[Continuation(prompt=[5, 6], tokens=[7], logprobs=[-0.25], margins=[2.0])],
)


@dataclass
class Answer:
    """What a sound endpoint would say, for a fake to change; `asked` counts how often it was asked the same before."""

    body: dict[str, Any]
    asked: int
    text: str
    finish: str
    prompt_tokens: int
    tokens: int
    code: int = 200

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    def cut(self, count: int) -> str:
        """The text without its last words."""
        return " ".join(self.text.split(" ")[:-count])


Spoil = Callable[[Answer], None]


def sound(body: dict[str, Any], asked: int) -> Answer:
    question = body["messages"][0]["content"] if "messages" in body else str(body["prompt"])
    text = dict(zip(TOPICS, ANSWERS, strict=True)).get(question, question) if "messages" in body else WEEK
    words = text.split(" ")
    text, finish = " ".join(words[: body["max_tokens"]]), "length" if len(words) > body["max_tokens"] else "stop"
    for stop in body.get("stop", []):
        finish = "stop" if stop in text else finish
        text = text.partition(stop)[0]
    return Answer(body, asked, text, finish, len(question), len(text.split(" ")))


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """What one rule finds on an endpoint that a function spoils."""

    def run(rule: str, spoil: Spoil, reference: Reference | None = None, *, drawn: bool = False) -> Finding:
        times: Counter[str] = Counter()
        lock = threading.Lock()

        def handle(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            question = str(body.get("messages") or body["prompt"])
            with lock:
                times[question] += 1
                answer = sound(body, times[question] - 1)
            spoil(answer)
            return sent(answer)

        monkeypatch.setattr(httpx, "Client", lambda **how: CLIENT(**how, transport=httpx.MockTransport(handle)))
        rules = SHORT if rule == "short" else {f"verify.{rule}": RULES[f"verify.{rule}"]}
        subject = Subject(ServedModel("http://127.0.0.1:1/v1", "m"), reference=reference, drawn=drawn)
        findings = verify(subject, rules)[1:]
        return next((each for each in findings if each.status != "passed"), findings[0])

    return run


def sent(answer: Answer) -> httpx.Response:
    if answer.code != 200:
        return httpx.Response(answer.code, text="the server's words")
    said = {"content": answer.text}
    choice = {"finish_reason": answer.finish, "text": answer.text, "message": said, "delta": said}
    total = answer.prompt_tokens + answer.tokens
    usage = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.tokens, "total_tokens": total}
    document = json.dumps({"choices": [choice], "usage": usage})
    return httpx.Response(200, text=f"data: {document}\n\ndata: [DONE]\n\n" if answer.stream else document)


def topic(answer: Answer) -> int | None:
    """Which question of a burst this is; alone it is asked first."""
    question = answer.body["messages"][0]["content"] if "messages" in answer.body else None
    return TOPICS.index(question) if question in TOPICS else None


def nothing(answer: Answer) -> None:
    pass


def empty(answer: Answer) -> None:
    answer.text = ""


def swapped(answer: Answer) -> None:
    at = topic(answer)
    if at is not None and answer.asked:
        answer.text = " ".join(ANSWERS[(at + 1) % 8].split(" ")[: answer.body["max_tokens"]])


def near_equal(answer: Answer) -> None:
    """Drawn weights: what they say hardly depends on what was asked, and together it rounds to another's text."""
    at = topic(answer)
    if at is not None:
        answer.text = f"w5 w5 w9 w{(at + bool(answer.asked)) % 8} w7 w7 w1 w2 w2 w9 w30 w30 w4 w4"


def babble(answer: Answer) -> None:
    """The same, cut within characters, again and again, or nothing."""
    answer.text = ["", "w5 \ufffd" + " w9" * 60, "<think> w7 {" + " w1" * 60][
        (answer.asked + len(str(answer.body))) % 3
    ]


def together_otherwise(answer: Answer) -> None:
    if topic(answer) is not None and 0 < answer.asked < 5:
        answer.text = answer.text[:20] + answer.text[:19:-1]


def cut_together(answer: Answer) -> None:
    if topic(answer) is not None and answer.asked:
        answer.text, answer.finish = answer.cut(3), "stop"


def never_twice(answer: Answer) -> None:
    if topic(answer) is not None:
        answer.text = f"{answer.text[:25]} {answer.asked}"


def garbled_after_eight(answer: Answer) -> None:
    if answer.asked >= 8:
        answer.text = "The #@!! xq zz 0000 qpw %%% kjh"


def otherwise_after_three(answer: Answer) -> None:
    if answer.asked >= 3:
        answer.text = answer.text.replace("Seine", "Rhine")


def rounds_otherwise(answer: Answer) -> None:
    if answer.asked % 3 == 1:
        answer.text = answer.text.replace("a city", "the city")


def cached_after_the_first(answer: Answer) -> None:
    if answer.asked:
        answer.text = answer.text.replace("a city", "the city")


def stop_loses_text(answer: Answer) -> None:
    if "stop" in answer.body:
        answer.text = ""


def stop_loses_streamed_text(answer: Answer) -> None:
    if "stop" in answer.body and answer.stream:
        answer.text = answer.text[:-2]


def weeks_differ(answer: Answer) -> None:
    if "prompt" in answer.body and answer.asked:
        answer.text = f"{answer.text[:8]}{answer.asked}{answer.text[8:]}"


def stream_counts_prompt_otherwise(answer: Answer) -> None:
    answer.prompt_tokens = 1 if answer.stream else answer.prompt_tokens


def every_second_stream_loses(answer: Answer) -> None:
    if answer.stream and answer.asked % 4 == 1:
        answer.text = answer.cut(1)


def every_second_stream_loses_and_counts_so(answer: Answer) -> None:
    every_second_stream_loses(answer)
    answer.tokens = len(answer.text.split(" "))


def one_stream_rounds_otherwise(answer: Answer) -> None:
    if answer.stream and answer.asked == 1:
        answer.text = answer.text[:10] + answer.text[:9:-1]


def sentence_again_and_again(answer: Answer) -> None:
    answer.text = STORY


def dies(answer: Answer) -> None:
    answer.code = 500 if "prompt_logprobs" in answer.body else 200


def does_not_know(answer: Answer) -> None:
    answer.code = 400 if "prompt_logprobs" in answer.body else 200


@pytest.mark.parametrize(
    ("rule", "spoil", "status", "says"),
    [
        ("burst", nothing, "passed", ""),
        ("burst", swapped, "failed", "mixed up"),
        ("short", swapped, "failed", "mixed up"),
        ("burst", near_equal, "not_evaluated", "near-equal texts"),
        ("short", near_equal, "not_evaluated", "near-equal texts"),
        ("burst", together_otherwise, "failed", "depart from those that repeat alone"),
        ("burst", cut_together, "failed", "other answers than alone"),
        ("burst", never_twice, "not_evaluated", "too few are as alone"),
        ("burst", empty, "failed", "an answer is empty"),
        ("sequence", garbled_after_eight, "failed", "another answer after some requests"),
        ("sequence", otherwise_after_three, "failed", "another answer after some requests"),
        ("sequence", rounds_otherwise, "passed", ""),
        ("sequence", cached_after_the_first, "passed", ""),
        ("streamed", empty, "failed", "the answer is empty"),
        ("short", empty, "failed", "the answer is empty"),
        ("streamed", every_second_stream_loses, "failed", "text is lost"),
        ("streamed", every_second_stream_loses_and_counts_so, "failed", "text is lost"),
        ("streamed", one_stream_rounds_otherwise, "passed", ""),
        ("stop", nothing, "passed", ""),
        ("stop", stop_loses_text, "failed", "the text before it is another"),
        ("stop", stop_loses_streamed_text, "failed", "the text before it is another"),
        ("stop", weeks_differ, "not_evaluated", "differ among themselves"),
        ("usage", nothing, "passed", ""),
        ("usage", stream_counts_prompt_otherwise, "failed", "the same prompt is counted otherwise"),
        ("repetition", sentence_again_and_again, "failed", "collapse into repetition"),
        ("logits", dies, "failed", "answered HTTP 500"),
        ("logits", does_not_know, "not_evaluated", "HTTP 400: the server's words"),
        ("logits", does_not_know, "not_evaluated", "the reference is of other/model, the endpoint serves m"),
    ],
)
def test_what_is_wrong_is_told_from_rounding(
    found: Callable[..., Finding], rule: str, spoil: Spoil, status: str, says: str
) -> None:
    finding = found(rule, spoil, reference=OTHER)
    assert (finding.status, says in (finding.cause or "")) == (status, True), finding


@pytest.mark.parametrize("spoil", [near_equal, babble])
@pytest.mark.parametrize("rule", ["burst", "streamed", "stop", "sequence", "repetition", "characters", "logits"])
def test_drawn_weights_are_accused_of_nothing(found: Callable[..., Finding], rule: str, spoil: Spoil) -> None:
    assert found(rule, spoil, reference=OTHER, drawn=True).status != "failed"


@pytest.mark.parametrize("rule", ["burst", "streamed", "sequence"])
def test_an_endpoint_that_refuses_is_wrong_whatever_its_weights(found: Callable[..., Finding], rule: str) -> None:
    def refuses(answer: Answer) -> None:
        answer.code = 500

    assert found(rule, refuses, drawn=True).status == "failed"


def test_where_nothing_was_asked_no_character_is_whole(found: Callable[..., Finding]) -> None:
    assert found("characters", nothing).status == "not_evaluated"
