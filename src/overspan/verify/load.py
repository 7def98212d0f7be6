"""Rules on many answers: one after another, and all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.endpoint.client import NoAnswer
from overspan.endpoint.replies import ModelReply
from overspan.schema.finding import Finding
from overspan.verify.subject import DRAWN, Asker, Subject, agreeing, failed, not_evaluated, passed, shown

IN_SEQUENCE: Final = 20
"""Engines were seen that answered 10 requests of 10 in one setting, and died after 8 in another (Avarok's
MiniMax-M2.5 guide)."""
BEGINNING: Final = 4
"""Characters that two answers to one question have in common; what follows may fall apart by rounding."""
FOREIGN: Final = 12
"""So many characters that only another question's answer has are no chance."""
STEP: Final = 3
"""So many answers at the end, each other than those before, are no rounding: that comes and goes."""
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
WORDS: Final = ("paris", "seven|7", "blue", None, "four|4", "buenos", "shakespeare", "pacific|atlantic")
"""A word that the right answer to each topic has, and no other needs: it is the proof of whose answer a text is. Texts
alone are none: of two that are near-equal, rounding makes one of the other."""
BURST: Final = 32
LENGTHS: Final = (8, 48, 16, 32)


def sequence(ask: Asker, subject: Subject) -> Finding:
    """Twenty requests one after another are all answered, the last as the first."""
    replies: list[str] = []
    for number in range(1, IN_SEQUENCE + 1):
        try:
            replies.append(ask.chat(TOPICS[0], 16).whole)
        except NoAnswer as error:
            return failed(
                f"request {number} of {IN_SEQUENCE}: {error.what}: {error.quote or ''}".rstrip(": "),
                f"the endpoint answered {number - 1} requests and no more",
                "overspan doctor RUN; CUDA graphs and pipelines over Ray die so (Avarok's MiniMax-M2.5 guide)",
            )
        if not replies[-1].strip() and not subject.drawn:
            return failed(f"request {number} of {IN_SEQUENCE}: {shown(replies[-1])}", "an answer is empty")
    changed = None if subject.drawn else _changed(replies)
    if changed is not None:
        return failed(
            f"request 1: {shown(replies[0])}; request {changed + 1}: {shown(replies[changed])}",
            "the same question gets another answer after some requests: state is left over or lost",
        )
    return passed(f"{IN_SEQUENCE} of {IN_SEQUENCE} answered, {len(set(replies))} different")


def _changed(replies: Sequence[str]) -> int | None:
    """Which of the answers to one question, asked alone each time, is another than rounding makes of it."""
    first = replies[0]
    for number, reply in enumerate(replies):
        shorter = min(len(first), len(reply))
        if agreeing(first, reply) < min(len(first), max(BEGINNING, shorter // 2)):
            return number
    step = next((number for number, reply in enumerate(replies) if reply != first), len(replies))
    # After the first request a prefix cache has the prompt, which may round otherwise ever after.
    stays = 2 <= step <= len(replies) - STEP and first not in replies[step:]
    return step if stays else None


def burst(ask: Asker, subject: Subject, count: int = BURST) -> Finding:
    """Many requests at once, of several lengths, half of them streamed, are answered as each is alone."""
    lengths = [LENGTHS[number // len(TOPICS) % len(LENGTHS)] for number in range(count)]

    def lone() -> list[str]:
        return [ask.chat(topic, max(lengths)).whole for topic in TOPICS]

    def one(number: int) -> ModelReply | NoAnswer:
        try:
            return ask.chat(TOPICS[number % len(TOPICS)], lengths[number], stream=bool(number % 2))
        except NoAnswer as error:
            return error

    alone = [] if subject.drawn else lone()
    with ThreadPoolExecutor(max_workers=count) as pool:
        replies = list(pool.map(one, range(count)))
    refused = [reply for reply in replies if isinstance(reply, NoAnswer)]
    if refused:
        return failed(
            f"{len(refused)} of {len(replies)}: {refused[0].what}: {refused[0].quote or ''}".rstrip(": "),
            f"of {len(replies)} requests at once, {len(refused)} were not answered",
        )
    if subject.drawn:
        return passed(f"{len(replies)} requests at once are answered; {DRAWN}")
    said = [reply for reply in replies if isinstance(reply, ModelReply)]
    ended = [reply.finish == "stop" or most == max(lengths) for reply, most in zip(said, lengths, strict=True)]
    return _judged(list(zip([reply.whole for reply in said], ended, strict=True)), alone, lone)


def short_burst(ask: Asker, subject: Subject) -> Finding:
    """The burst, with each question once."""
    return burst(ask, subject, len(TOPICS))


def _judged(texts: Sequence[tuple[str, bool]], alone: Sequence[str], lone: Callable[[], list[str]]) -> Finding:
    """What texts of a burst, each with whether it has no more to come, say beside those that were asked alone."""
    same = apart = alike = 0
    for number, (text, ended) in enumerate(texts):
        topic = number % len(alone)
        own = alone[topic]
        if not own.strip() or not text.strip():
            how = "at once with others" if own.strip() else "alone"
            return failed(f"{TOPICS[topic]!r}, asked {how}: {shown('')}", "an answer is empty")
        like = [each for each, other in enumerate(alone) if other != own and _begins(text, other, alone)]
        if any(_has(each, text) and not (_has(each, own) or _has(topic, text)) for each in like):
            return failed(
                f"{TOPICS[topic]!r} -> {shown(text)}",
                "a request got the answer of another one that was under way: requests are mixed up",
            )
        alike += bool(like)
        common, shorter = agreeing(own, text), min(len(own), len(text))
        cut = ended and common == len(text) < len(own)
        same += common == shorter and not cut
        apart += cut or common < min(shorter, _common(own, alone) + BEGINNING)
    seen = (
        f"{len(texts)} requests at once: {same} have the same answer as alone, {apart} another answer or a shorter one"
    )
    known = any(_has(topic, text) for topic, text in enumerate(alone))
    if not known or alike:
        what = f"{alike} of them like that to another question" if alike else "none of them right, alone either"
        doubt = f"{what}, and no word tells whose it is: requests are mixed up, or the model gives near-equal texts"
        instead = "ask a model of trained weights, which knows some answers"
    else:
        doubt = "too few are as alone to tell rounding from a fault"
        instead = "ask an idle endpoint, and one of more precision: bf16 for fp8, tp=1"
        if apart > len(texts) // 4:
            return failed(seen, "together with others, questions get other answers than alone")
    if 2 * same >= len(texts) and not alike:
        return passed(seen)
    if known and not alike and 4 * same < len(texts) and lone() == alone:
        return failed(seen, "together with others, nearly all answers depart from those that repeat alone")
    return not_evaluated(f"{seen}: {doubt}", instead)


def _begins(text: str, other: str, alone: Sequence[str]) -> bool:
    """Whether a text is the answer to another question for longer than answers to several are the same."""
    return agreeing(other, text) >= _common(other, alone) + FOREIGN


def _has(topic: int, text: str) -> bool:
    word = WORDS[topic]
    return word is not None and re.search(rf"\b({word})\b", text, re.IGNORECASE) is not None


def _common(own: str, alone: Sequence[str]) -> int:
    """With how many characters an answer begins as that to another question does: 'The', 'Okay, the user asks'."""
    return max((agreeing(own, each) for each in alone if each != own), default=0)
