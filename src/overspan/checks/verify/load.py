"""Rules on many answers: one after another, and all at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.checks.client import NoAnswer
from overspan.checks.verify.ask import Asker, Reply
from overspan.checks.verify.subject import Subject, agreeing, failed, passed, shown
from overspan.schema.finding import Finding

IN_SEQUENCE: Final = 20
"""Engines were seen that answered 10 requests of 10 in one setting, and died after 8 in another (seed 000)."""
BEGINNING: Final = 4
"""Characters that answers to one question have in common; later ones may fall apart by rounding."""
FOREIGN: Final = 12
"""So many characters of another question's answer are no chance."""
TOPICS: Final = (
    "What is the capital of France?",
    "Count from one to twenty.",
    "What colour is the sky?",
    "List four animals.",
    "What is two plus two?",
    "Say good morning in Spanish.",
    "Who wrote Hamlet?",
    "Name a large ocean.",
)
BURST: Final = 32
LENGTHS: Final = (8, 48, 16, 32)


def sequence(ask: Asker, _: Subject) -> Finding:
    """Twenty requests one after another are all answered, the last as the first."""
    rule = "verify.sequence"
    replies: list[str] = []
    for number in range(1, IN_SEQUENCE + 1):
        try:
            replies.append(ask.chat(TOPICS[0], 16).whole)
        except NoAnswer as error:
            return failed(
                rule,
                f"request {number} of {IN_SEQUENCE}: {error.what}: {error.quote or ''}".rstrip(": "),
                f"the endpoint answered {number - 1} requests and no more",
                "overspan doctor RUN; CUDA graphs over Ray and pipelines over Ray were seen to die so (seed 000)",
            )
        if not replies[-1]:
            return failed(rule, f"request {number} of {IN_SEQUENCE}: empty", "an answer is empty")
        if agreeing(replies[0], replies[-1]) < min(BEGINNING, len(replies[0])):
            return failed(
                rule,
                f"request 1: {shown(replies[0])}; request {number}: {shown(replies[-1])}",
                "the same question gets another answer after some requests: state is left over or lost",
            )
    return passed(rule, f"{IN_SEQUENCE} of {IN_SEQUENCE} answered, {len(set(replies))} different")


def burst(ask: Asker, _: Subject, count: int = BURST) -> Finding:
    """Many requests at once, of several lengths, half of them streamed, are answered as each is alone."""
    rule = "verify.burst"
    lengths = [LENGTHS[number // len(TOPICS) % len(LENGTHS)] for number in range(count)]
    alone = [ask.chat(topic, max(lengths)).whole for topic in TOPICS]

    def one(number: int) -> Reply | NoAnswer:
        try:
            return ask.chat(TOPICS[number % len(TOPICS)], lengths[number], stream=bool(number % 2))
        except NoAnswer as error:
            return error

    with ThreadPoolExecutor(max_workers=count) as pool:
        replies = list(pool.map(one, range(count)))
    return _judged(rule, replies, alone)


def short_burst(ask: Asker, subject: Subject) -> Finding:
    """The burst, with each question once."""
    return burst(ask, subject, len(TOPICS))


def _judged(rule: str, replies: Sequence[Reply | NoAnswer], alone: Sequence[str]) -> Finding:
    refused = [reply for reply in replies if isinstance(reply, NoAnswer)]
    if refused:
        return failed(
            rule,
            f"{len(refused)} of {len(replies)}: {refused[0].what}: {refused[0].quote or ''}".rstrip(": "),
            f"of {len(replies)} requests at once, {len(refused)} were not answered",
        )
    same = apart = 0
    for number, reply in enumerate(replies):
        text = reply.whole if isinstance(reply, Reply) else ""
        own = alone[number % len(alone)]
        common = agreeing(own, text)
        same += common == min(len(own), len(text))
        if common >= min(BEGINNING, len(own)):
            continue
        apart += 1
        foreign = next((each for each in alone if each != own and agreeing(each, text) >= FOREIGN), None)
        if foreign is not None:
            return failed(
                rule,
                f"{TOPICS[number % len(alone)]!r} -> {shown(text)}",
                "a request got the answer of another one that was under way: requests are mixed up",
            )
    seen = f"{len(replies)} requests at once: {same} as alone to their end, {apart} from their beginning on otherwise"
    if apart > len(replies) // 4:
        return failed(rule, seen, "together with others, questions get other answers than alone")
    return passed(rule, seen)
