"""What is asked of a layout, in which manner, and where its answers first differ from the reference's."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from typing import Any, Final, Literal

from pydantic import Field

from overspan.endpoint.client import Client, NoAnswer, http_client
from overspan.endpoint.metric_names import MetricNames
from overspan.endpoint.metrics import read_metrics
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Endpoint

Manner = Literal["long", "batch", "staggered", "chunked", "prefix", "uncached", "preempted"]
_ROUNDS: Final[tuple[Manner, ...]] = ("long", "batch", "staggered", "chunked", "prefix", "uncached", "preempted")
"""One after another; the long one goes on beside the others, so that each meets a request that is under way."""
STAGGER_S: Final = 0.05
"""About a step of a twin: each arrival meets the others at another place."""
TIMEOUT_S: Final = 300.0
TIE: Final = 1e-4
"""In fp32, sums of other orders differ by about 1e-5 here; a token that won by less may fall either way."""
PREEMPTED: Final = 16
"""Requests that together need twice the cache that a twin is given, on one engine or shared by two."""
CACHE_TOKENS: Final = 1024
"""The cache that the cases are made for: the other manners fit, the preempted ones (16 of 134 tokens) do not."""


class ProofCase(Frozen):
    """One prompt. `salt` keeps the engine's prefix cache out of it."""

    manner: Manner
    prompt: list[int]
    tokens: int
    salt: str | None = None


class ReferenceAnswer(Frozen):
    """Greedy tokens, their log probabilities, and by how much each beat the next best."""

    tokens: list[int]
    logprobs: list[float] = Field(default_factory=list)
    margins: list[float]


class TokenMismatch(Frozen):
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


def all_cases(vocabulary: int, chunk: int) -> list[ProofCase]:
    """What is asked: every manner of arrival that the scheduler treats in a way of its own.

    Args:
        vocabulary: ids are drawn below it.
        chunk: the most tokens that the engine takes in one step; longer prompts are chunked.
    """
    draw = random.Random(20261122)  # noqa: S311 - the same prompts each time

    def prompt(length: int) -> list[int]:
        return [draw.randrange(vocabulary - 1) for _ in range(length)]

    asked = [ProofCase(manner="batch", prompt=prompt(32), tokens=24) for _ in range(8)]
    asked += [ProofCase(manner="staggered", prompt=prompt(draw.randrange(8, 48)), tokens=24) for _ in range(8)]
    asked += [ProofCase(manner="chunked", prompt=prompt(2 * chunk + 7), tokens=16) for _ in range(2)]
    shared = prompt(chunk + 16)
    asked += [ProofCase(manner="prefix", prompt=shared + prompt(8), tokens=12) for _ in range(3)]
    asked += [ProofCase(manner="uncached", prompt=case.prompt, tokens=12, salt="alone") for case in asked[-2:]]
    asked += [ProofCase(manner="preempted", prompt=prompt(90), tokens=44) for _ in range(PREEMPTED)]
    asked.append(ProofCase(manner="long", prompt=prompt(16), tokens=256))
    return asked


class LayoutAnswers(Frozen):
    """The token ids of each case, and what the engine's own counters tell of how it came to them."""

    tokens: list[list[int]]
    preemptions: int
    cached_tokens: int
    drafted: int = 0
    accepted: int = 0


def ask(endpoint: Endpoint, cases: Sequence[ProofCase], names: MetricNames) -> LayoutAnswers:
    """The tokens of each case, in the order of the cases.

    Args:
        endpoint: the twin's.
        cases: what is asked.
        names: of the engine's metrics.

    Raises:
        OverspanError: a request failed; quotes the engine.
    """
    begun: dict[tuple[int, ...], Future[list[list[int]]]] = {}
    tokens: list[list[int]] = [[] for _ in cases]
    client = Client(endpoint, timeout_s=TIMEOUT_S)
    with closing(client), ThreadPoolExecutor(max_workers=len(cases)) as pool:
        for manner in _ROUNDS:
            now = _requests(manner, cases)
            for numbers in now:
                begun[numbers] = pool.submit(_ask, client, [cases[number] for number in numbers])
                if manner == "staggered":
                    time.sleep(STAGGER_S)
                elif manner == "prefix":
                    begun[numbers].result()  # the next one finds its prefix in the cache
            if manner != "long":
                wait([begun[numbers] for numbers in now])
        for numbers, future in begun.items():
            for number, each in zip(numbers, future.result(), strict=True):
                tokens[number] = each
    try:
        with http_client(endpoint.base_url, None, TIMEOUT_S) as plain:
            counted = read_metrics(plain, endpoint.base_url, names)
    except NoAnswer as error:
        raise OverspanError(f"the engine's metrics cannot be read: {error.what}") from None
    return LayoutAnswers(
        tokens=tokens,
        preemptions=round(counted.get("preemptions", 0)),
        cached_tokens=round(counted.get("prefix_cache_hits", 0)),
        drafted=round(counted.get("drafted_tokens", 0)),
        accepted=round(counted.get("accepted_tokens", 0)),
    )


def _requests(manner: Manner, cases: Sequence[ProofCase]) -> list[tuple[int, ...]]:
    """The cases of a manner by their numbers, request by request.

    Those that are to press on the cache are one: they meet each other however busy this machine is.
    """
    numbers = [number for number, case in enumerate(cases) if case.manner == manner]
    return [tuple(numbers)] if manner == "preempted" else [(number,) for number in numbers]


def _ask(client: Client, cases: Sequence[ProofCase]) -> list[list[int]]:
    """The tokens of cases that are alike, asked as one request."""
    first = cases[0]
    body: dict[str, Any] = {
        "model": client.model,
        "prompt": [case.prompt for case in cases],
        "max_tokens": first.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if first.salt:
        body["cache_salt"] = first.salt
    try:
        choices = client.post("/completions", body)["choices"]
    except NoAnswer as error:
        raise OverspanError(f"a {first.manner} request failed: {error.what}", quote=error.quote) from None
    ordered = sorted(choices, key=lambda choice: int(choice["index"]))
    return [[int(token) for token in choice["token_ids"]] for choice in ordered]


def first_difference(
    asked: Sequence[ProofCase], expected: Sequence[ReferenceAnswer], got: Sequence[list[int]]
) -> TokenMismatch | None:
    """The first difference in the order of the cases; None when every token is the same."""
    for number, (case, answer, tokens) in enumerate(zip(asked, expected, got, strict=True)):
        if tokens == answer.tokens:
            continue
        length = min(len(tokens), len(answer.tokens))
        position = next((at for at in range(length) if tokens[at] != answer.tokens[at]), length)
        inside = position < len(answer.tokens)
        return TokenMismatch(
            manner=case.manner,
            prompt=number,
            position=position,
            expected=answer.tokens[position] if inside else None,
            got=tokens[position] if position < len(tokens) else None,
            margin=answer.margins[position] if inside else None,
        )
    return None
