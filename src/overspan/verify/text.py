"""Rules on what one answer is: the same streamed and whole, ended where it was asked to end, counted rightly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from overspan.endpoint.replies import ModelReply
from overspan.schema.finding import Finding
from overspan.verify.subject import Asker, Subject, failed, not_evaluated, passed, shown

MIXED: Final = "Write this again, exactly: 你好世界 🙂🚀👩\u200d👩\u200d👧 nai\u0308ve e\u0301 n\u0303 Привет"
"""Characters of two to four bytes, a joined emoji and combining marks: tokens end inside of them."""
QUESTIONS: Final = ("What is the capital of France?", "Name three colours.", MIXED)
STORIES: Final = (
    "Tell a short story about a lighthouse keeper.",
    "Explain how rain is made.",
    "Describe your way through a town that you know well.",
)
LEAD: Final = "The days of the week are Monday, Tuesday,"
STREAM_TOKENS: Final = 48
STORY_TOKENS: Final = 192
"""Long enough that a collapse, which a broken cache brings after its first blocks, has room to show."""
LONGEST: Final = 6144
"""Characters of a story that are looked at for what repeats: STORY_TOKENS of 32 each, longer than any."""
TRIES: Final = 4

_Ask = Callable[[], ModelReply]


def streamed(ask: Asker, _: Subject) -> Finding:
    """The text of a stream is the text of a whole answer."""
    for question in QUESTIONS:
        asked = partial(ask.chat, question, STREAM_TOKENS)
        wholes, parts = _paired(asked, partial(asked, stream=True))
        said = [reply.whole for reply in wholes]
        if not said[0].strip():
            return failed(f"{shown(question)} -> {shown(said[0])}", "the answer is empty")
        steady = len(set(said)) == 1
        wrong = _losing(wholes[0], parts) if steady else None
        if wrong is None and not _alike(wholes, parts):
            if not steady:
                return not_evaluated(
                    f"whole answers to one question differ among themselves at temperature 0: {shown(said[0])} and "
                    f"{shown(next(text for text in said if text != said[0]))}",
                    "ask an idle endpoint; other load changes the batches, and rounding with them",
                )
            wrong = parts[0]
        if wrong is not None:
            return failed(
                f"whole: {shown(said[0])}; streamed: {shown(wrong.whole)}",
                "a streamed answer is another than the whole one: text is lost, doubled or cut between chunks",
                "look at the detokenizer and at whatever stands between the client and the engine",
            )
    return passed(f"{len(QUESTIONS)} answers are the same streamed and whole")


def _paired(one: _Ask, other: _Ask) -> tuple[list[ModelReply], list[ModelReply]]:
    """Answers asked in two ways: once where they are equal at once, else several times."""
    ones, others = [one()], [other()]
    while not _alike(ones[:1], others[:1]) and len(ones) < TRIES:
        ones.append(one())
        others.append(other())
    return ones, others


def _alike(ones: Iterable[ModelReply], others: Iterable[ModelReply]) -> bool:
    """Whether one of these equals one of those: what is wrong with one way never does, what rounds otherwise may."""
    return not {reply.whole for reply in ones}.isdisjoint(reply.whole for reply in others)


def _losing(whole: ModelReply, parts: Sequence[ModelReply]) -> ModelReply | None:
    """The part that is the whole with text left out or doubled, where rounding does not explain it.

    Rounding gives other words. The same words with a hole are a loss where as many tokens are counted, and where there
    are two of them.
    """
    holed = [part for part in parts if _holed(*sorted((whole.whole, part.whole), key=len))]
    counted = [part for part in holed if part.completion_tokens == whole.completion_tokens is not None]
    return next(iter(counted or holed[1:]), None)


def _holed(shorter: str, longer: str) -> bool:
    rest = iter(longer)
    return len(shorter) < len(longer) and all(character in rest for character in shorter)


def stop_strings(ask: Asker, _: Subject) -> Finding:
    """An answer is the free one up to its stop string, streamed as well."""
    free = ask.complete(LEAD, 32).text
    found = _stop_in(free)
    if found is None:
        return not_evaluated(f"no text to stop in: {shown(free)}")
    wrong = _stopped(ask, found, stream=False) or _stopped(ask, found, stream=True)
    return wrong or passed(f"ended before {shown(found)}, whole and streamed")


def _stopped(ask: Asker, stop: str, *, stream: bool) -> Finding | None:
    """What is wrong with answers that a stop string ends; None where nothing is."""

    def before() -> ModelReply:
        free = ask.complete(LEAD, 32)
        return replace(free, text=free.text.partition(stop)[0])

    frees, stopped = _paired(before, partial(ask.complete, LEAD, 32, stream=stream, stop=[stop]))
    seen = f"stop {shown(stop)}, {'streamed' if stream else 'whole'}: "
    for reply in stopped:
        if stop in reply.text:
            return failed(seen + shown(reply.text), "the stop string is not honoured: it stands in the answer")
        if reply.finish != "stop" and frees[0].text.startswith(reply.text):
            cause = "an answer that a stop string ended does not say so"
            return failed(f"{seen}finish_reason is {reply.finish!r}", cause)
    if _alike(frees, stopped):
        return None
    seen += f"{shown(stopped[0].text)}; free, up to there: {shown(frees[0].text)}"
    if len({reply.text for reply in frees}) > 1:
        return not_evaluated(f"free answers differ among themselves at temperature 0. {seen}")
    return failed(seen, "with a stop string the text before it is another: text is lost or changed")


def _stop_in(text: str) -> str | None:
    """A string that stands first well inside the text, not at its beginning."""
    for at in range(len(text) // 3, len(text) - 4):
        piece = text[at : at + 4]
        if piece.strip() == piece and text.find(piece) == at and "\ufffd" not in piece:
            return piece
    return None


def max_tokens(ask: Asker, _: Subject) -> Finding:
    """No answer is longer than it may be."""
    free = ask.complete(LEAD, 32)
    for most in (1, 7):
        for stream in (False, True):
            reply = ask.complete(LEAD, most, stream=stream)
            seen = f"max_tokens {most}{', streamed' if stream else ''}: {_told(reply)}"
            longer = free.cut and len(reply.text) >= len(free.text) > 0
            if longer or (reply.completion_tokens or 0) > most:
                return failed(seen, "the answer is longer than max_tokens allows")
            if reply.completion_tokens == most and reply.finish not in ("length", "stop"):
                return failed(seen, "an answer that max_tokens ended does not say so in finish_reason")
            if reply.finish == "length" and reply.completion_tokens not in (None, most):
                return failed(seen, f"finish_reason is 'length' before {most} tokens")
    return passed("answers of 1 and 7 tokens at most, whole and streamed")


def usage(ask: Asker, _: Subject) -> Finding:
    """The token counts of an answer agree with each other, with the stream's and with the tokens themselves."""
    whole = ask.complete(LEAD, 16, logprobs=1)
    if whole.completion_tokens is None:
        return not_evaluated("the endpoint counts no tokens (no `usage` in its answers)")
    parts = ask.complete(LEAD, 16, stream=True)
    longer = ask.complete(f"{LEAD} {LEAD}", 1)
    problem = next(_miscounts(whole, parts, longer), None)
    if problem:
        return failed(f"whole: {_told(whole)}; streamed: {_told(parts)}", problem)
    return passed(f"{_told(whole)}; the stream's count and the listed tokens agree")


def _miscounts(whole: ModelReply, parts: ModelReply, longer: ModelReply) -> Iterator[str]:
    for reply in (whole, parts):
        counts = (reply.prompt_tokens, reply.completion_tokens, reply.total_tokens)
        if None not in counts and (counts[0] or 0) + (counts[1] or 0) != counts[2]:
            yield f"{counts[0]} prompt tokens and {counts[1]} completion tokens are not {counts[2]} in total"
    if None not in (whole.prompt_tokens, parts.prompt_tokens) and whole.prompt_tokens != parts.prompt_tokens:
        yield "the same prompt is counted otherwise when its answer is streamed"
    if parts.completion_tokens is None:
        yield "a stream with stream_options.include_usage ends without its counts"
    elif parts.text == whole.text and parts.completion_tokens != whole.completion_tokens:
        yield "the same text is counted otherwise when it is streamed"
    if whole.counted_tokens is not None and whole.counted_tokens != whole.completion_tokens:
        yield f"{whole.counted_tokens} tokens are listed with their log probabilities, and others are counted"
    if (longer.prompt_tokens or 0) <= (whole.prompt_tokens or 0):
        yield f"a prompt twice as long is counted as {longer.prompt_tokens} tokens"


def _told(reply: ModelReply) -> str:
    return (
        f"{reply.prompt_tokens} + {reply.completion_tokens} = {reply.total_tokens} tokens, "
        f"finish_reason {reply.finish!r}, {shown(reply.text, 40)}"
    )


def characters(ask: Asker, _: Subject) -> Finding:
    """No answer so far holds a broken character. One may stand at the end of an answer that was cut off."""
    if not ask.said:
        return not_evaluated("no answer was got, so that none can be looked at")
    for reply in ask.said:
        for text in (reply.reasoning, reply.text):
            body = text.rstrip("\ufffd") if reply.cut else text
            broken = next(
                (at for at, mark in enumerate(body) if mark == "\ufffd" or "\ud800" <= mark <= "\udfff"), None
            )
            if broken is not None:
                around = text[max(0, broken - 20) : broken + 20]
                return failed(
                    f"at character {broken}: {shown(around)}",
                    "an answer holds a broken character (U+FFFD, or half of a pair): tokens of one character were "
                    "decoded apart, or tokens of two requests were mixed",
                    "ask with one user and with tp=1; if that is right, the layout or the detokenizer is at fault",
                )
    return passed(f"{len(ask.said)} answers are whole UTF-8 without a replacement character")


def repetition(ask: Asker, _: Subject) -> Finding:
    """Long answers do not fall into one word said again and again. One of three may: small models do."""
    replies = [ask.chat(story, STORY_TOKENS) for story in STORIES]
    found = list(_collapses(reply.whole for reply in replies))
    if len(found) > 1:
        return failed(
            f"{len(found)} of {len(replies)} answers: {found[0]}",
            "long answers collapse into repetition: the KV cache, positions or weights are wrong from some length on",
            "look where it begins: at a block of the cache, at max_num_batched_tokens, at the attention window",
        )
    lengths = ", ".join(str(len(reply.whole)) for reply in replies)
    return passed(f"{len(replies)} answers of {lengths} characters, {len(found)} repeat themselves")


def _collapses(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        found = collapse(text)
        if found is not None:
            yield f"{shown(found)} again and again at the end of {shown(text[:40])}"


def collapse(text: str, least: int = 6) -> str | None:
    """The unit that a text repeats `least` times or more at its end, if it does so: a word, or a whole sentence.

    What repeats must also be a quarter of the text: a table's ruler is no collapse.
    """
    for size in range(1, min(len(text), LONGEST) // least + 1):
        unit = text[-size:]
        count = 0
        while len(unit) == size and text.endswith(unit, 0, len(text) - count * size):
            count += 1
        if count >= least and count * size >= max(24, len(text) // 4):
            return unit
    return None
