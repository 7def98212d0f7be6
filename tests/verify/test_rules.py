"""Each rule passes on a sound endpoint, and fails on one that misbehaves in the way that the rule is about."""

import pytest

from overspan.endpoint.identify import identify
from overspan.endpoint.target import make_target
from overspan.schema.finding import Finding
from overspan.schema.recipe import KnownAnswer
from overspan.verify import RULES, SHORT, Subject, verify, wrong
from overspan.verify.reference import Continuation, Reference
from overspan.verify.text import collapse
from support.endpoint import endpoint

PARIS = [KnownAnswer(prompt="What is the capital of France?", expect="Paris")]
REFERENCE = Reference(
    model="stub",
    source="a test",
    continuations=[Continuation(prompt=[5, 6], tokens=[7, 8, 9], logprobs=[-0.25] * 3, margins=[2.0] * 3)],
)


def findings(fault: str | None, *rules: str, **known: object) -> dict[str, Finding]:
    """What the rules (all, where none is named) find on an endpoint with a fault."""
    settings = {"known_answers": PARIS, "reference": REFERENCE, "tools": "asked", "reasoning": "not_asked", **known}
    asked = SHORT if rules == tuple(SHORT) else {name: RULES[name] for name in rules} or RULES
    with endpoint(fault) as url:
        found = verify(Subject(identify(make_target(url)), **settings), asked)  # type: ignore[arg-type]
    return {finding.rule: finding for finding in found}


def test_a_sound_endpoint_passes_every_rule() -> None:
    found = findings(None)
    assert list(found) == ["verify.known-answer", *RULES]
    assert {name for name, each in found.items() if each.status != "passed"} == {"verify.reasoning"}
    assert found["verify.reasoning"].status == "not_evaluated"
    assert all(each.evidence for each in found.values() if each.status == "passed")


@pytest.mark.parametrize(
    ("fault", "rule", "says"),
    [
        ("stream-loses-text", "streamed", "lost, doubled or cut"),
        ("error-in-stream", "streamed", "an error in the stream"),
        ("stream-breaks-off", "streamed", "ended the stream before its end"),
        ("stop-ignored", "stop", "not honoured"),
        ("stop-kept", "stop", "not honoured"),
        ("stop-untold", "stop", "does not say so"),
        ("max-tokens-ignored", "max-tokens", "longer than max_tokens"),
        ("wrong-total", "usage", "in total"),
        ("stream-counts-otherwise", "usage", "counted otherwise"),
        ("stream-uncounted", "usage", "without its counts"),
        ("lists-other-tokens", "usage", "others are counted"),
        ("prompt-uncounted", "usage", "twice as long"),
        ("broken-character", "characters", "broken character"),
        ("no-utf-8", "known-answer", "no UTF-8"),
        ("repeats", "repetition", "collapse into repetition"),
        ("dies-after-eight", "sequence", "requests and no more"),
        ("wrong-after-eight", "sequence", "another answer after some requests"),
        ("no-bursts", "burst", "were not answered"),
        ("mixes-requests", "burst", "mixed up"),
        ("departs-in-a-batch", "burst", "other answers than alone"),
        ("tool-markup", "tool-calls", "was not parsed"),
        ("no-tools", "tool-calls", "is not called"),
        ("bad-arguments", "tool-calls", "no JSON object"),
        ("other-tool", "tool-calls", "not offered"),
        ("other-logits", "logits", "logits are not the model's"),
    ],
)
def test_a_fault_fails_its_rule(fault: str, rule: str, says: str) -> None:
    rules = {"characters": ["verify.streamed", "verify.characters"], "known-answer": SHORT}.get(
        rule, [f"verify.{rule}"]
    )
    finding = findings(fault, *rules, known_answers=PARIS if rule == "known-answer" else [])[f"verify.{rule}"]
    assert finding.status == "failed", finding
    assert says in (finding.cause or "")
    assert finding.evidence is not None


def test_a_wrong_known_answer_fails() -> None:
    wrong_one = [KnownAnswer(prompt="What is the capital of France?", expect="Rome")]
    assert findings(None, "verify.stop", known_answers=wrong_one)["verify.known-answer"].status == "failed"


@pytest.mark.parametrize(("fault", "status"), [("reasons", "passed"), ("thinks-aloud", "failed"), (None, "failed")])
def test_reasoning_is_looked_at_where_the_recipe_asks_for_it(fault: str | None, status: str) -> None:
    assert findings(fault, "verify.reasoning", reasoning="asked")["verify.reasoning"].status == status


def test_what_cannot_be_checked_says_why() -> None:
    found = findings("no-prompt-logprobs", "verify.logits", "verify.tool-calls", known_answers=[], tools="unknown")
    assert [each.status for each in found.values()] == ["not_evaluated"] * 3
    assert all(each.cause for each in found.values())
    assert found["verify.tool-calls"].fix == "--expect tool-calls"
    assert findings("shy", "verify.tool-calls")["verify.tool-calls"].status == "not_evaluated"


def test_once_the_endpoint_is_gone_the_rest_is_not_evaluated() -> None:
    found = list(findings("dies-after-eight").values())
    first = next(at for at, each in enumerate(found) if each.status == "failed")
    assert {each.status for each in found[first + 1 :]} == {"not_evaluated"}
    assert "gives no token any more" in (found[first + 1].cause or "")


def test_the_short_form() -> None:
    found = findings(None, *SHORT)
    assert list(found) == ["verify.known-answer", *SHORT]
    assert wrong(found.values()) == []
    for fault, rule in (("mixes-requests", "burst"), ("broken-character", "characters")):
        assert [each.rule for each in wrong(findings(fault, *SHORT).values())] == [f"verify.{rule}"]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("The sky is blue and the sea is deep. " * 1, None),
        ("It began well" + "!" * 60, "!"),
        ("It began well and then" + " the end" * 20, " the end"),
        ("| a | b |\n" + "-" * 20 + "\nand then a lot of ordinary words that say something new each time", None),
        ("Ha ha ha ha ha ha ha. " + "A sound text goes on from there for a while, and ends. " * 2, None),
        ("", None),
    ],
)
def test_collapse_is_told_from_prose(text: str, unit: str | None) -> None:
    assert collapse(text) == unit
