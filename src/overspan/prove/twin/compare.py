"""What is asked of a layout, and where its answers first differ from the reference's. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final, Literal

from pydantic import Field

from overspan.schema.base import Frozen

Manner = Literal["long", "batch", "staggered", "chunked", "prefix", "uncached", "preempted"]
TIE: Final = 1e-4
"""In fp32, sums of other orders differ by about 1e-5 here; a token that won by less may fall either way."""


PREEMPTED: Final = 16
"""Requests that together need twice the cache that a twin is given, on one engine or shared by two."""
CACHE_TOKENS: Final = 1024
"""The cache that the cases are made for: the other manners fit, the preempted ones (16 of 134 tokens) do not."""


class Case(Frozen):
    """One prompt. `salt` keeps the engine's prefix cache out of it."""

    manner: Manner
    prompt: list[int]
    tokens: int
    salt: str | None = None


class Answer(Frozen):
    """Greedy tokens, their log probabilities, and by how much each beat the next best."""

    tokens: list[int]
    logprobs: list[float] = Field(default_factory=list)
    margins: list[float]


class Difference(Frozen):
    """The first place where a layout's answer is another than the reference's."""

    manner: Manner
    prompt: int
    position: int
    expected: int | None
    got: int | None
    margin: float | None

    @property
    def text(self) -> str:
        """For a person."""
        won = "" if self.margin is None else f"; the reference's won by {self.margin:.2g}"
        tie = " (a rounding tie)" if self.margin is not None and self.margin < TIE else ""
        got = "nothing" if self.got is None else self.got
        return f"{self.manner} prompt {self.prompt}, position {self.position}: {self.expected}, not {got}{won}{tie}"


def cases(vocabulary: int, chunk: int) -> list[Case]:
    """What is asked: every manner of arrival that the scheduler treats in a way of its own.

    Args:
        vocabulary: ids are drawn below it.
        chunk: the most tokens that the engine takes in one step; longer prompts are chunked.
    """
    draw = random.Random(20261122)  # noqa: S311 - the same prompts each time

    def prompt(length: int) -> list[int]:
        return [draw.randrange(vocabulary - 1) for _ in range(length)]

    asked = [Case(manner="batch", prompt=prompt(32), tokens=24) for _ in range(8)]
    asked += [Case(manner="staggered", prompt=prompt(draw.randrange(8, 48)), tokens=24) for _ in range(8)]
    asked += [Case(manner="chunked", prompt=prompt(2 * chunk + 7), tokens=16) for _ in range(2)]
    shared = prompt(chunk + 16)
    asked += [Case(manner="prefix", prompt=shared + prompt(8), tokens=12) for _ in range(3)]
    asked += [Case(manner="uncached", prompt=case.prompt, tokens=12, salt="alone") for case in asked[-2:]]
    asked += [Case(manner="preempted", prompt=prompt(90), tokens=44) for _ in range(PREEMPTED)]
    asked.append(Case(manner="long", prompt=prompt(16), tokens=256))
    return asked


def first_difference(asked: Sequence[Case], expected: Sequence[Answer], got: Sequence[list[int]]) -> Difference | None:
    """The first difference in the order of the cases; None when every token is the same."""
    for number, (case, answer, tokens) in enumerate(zip(asked, expected, got, strict=True)):
        if tokens == answer.tokens:
            continue
        length = min(len(tokens), len(answer.tokens))
        position = next((at for at in range(length) if tokens[at] != answer.tokens[at]), length)
        inside = position < len(answer.tokens)
        return Difference(
            manner=case.manner,
            prompt=number,
            position=position,
            expected=answer.tokens[position] if inside else None,
            got=tokens[position] if position < len(tokens) else None,
            margin=answer.margins[position] if inside else None,
        )
    return None
