"""Ask a twin every case in its manner, and give the token ids of each answer and how they came about."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final

import httpx

from overspan.endpoint.client import NoAnswer, http_client
from overspan.endpoint.metrics import Metrics, read_metrics
from overspan.engines.vllm import VLLM_METRICS
from overspan.prove.twin.compare import Case, Manner
from overspan.schema.base import Frozen
from overspan.schema.errors import OverspanError
from overspan.schema.plan import Endpoint

STAGGER_S: Final = 0.05
"""About a step of a twin: each arrival meets the others at another place."""
TIMEOUT_S: Final = 300.0
_ROUNDS: Final[tuple[Manner, ...]] = ("long", "batch", "staggered", "chunked", "prefix", "uncached", "preempted")
"""One after another; the long one goes on beside the others, so that each meets a request that is under way."""


class Answered(Frozen):
    """The token ids of each case, and what the engine's own counters tell of how it came to them."""

    tokens: list[list[int]]
    preemptions: int
    cached_tokens: int
    drafted: int = 0
    accepted: int = 0


def ask(endpoint: Endpoint, cases: Sequence[Case]) -> Answered:
    """The tokens of each case, in the order of the cases.

    Raises:
        OverspanError: a request failed; quotes the engine.
    """
    begun: dict[tuple[int, ...], Future[list[list[int]]]] = {}
    with (
        http_client(None, TIMEOUT_S, endpoint.base_url) as client,
        ThreadPoolExecutor(max_workers=len(cases)) as pool,
    ):
        for manner in _ROUNDS:
            now = _requests(manner, cases)
            for numbers in now:
                begun[numbers] = pool.submit(_ask, client, endpoint.model, [cases[number] for number in numbers])
                if manner == "staggered":
                    time.sleep(STAGGER_S)
                elif manner == "prefix":
                    begun[numbers].result()  # the next one finds its prefix in the cache
            if manner != "long":
                wait([begun[numbers] for numbers in now])
        tokens = {
            number: each
            for numbers, future in begun.items()
            for number, each in zip(numbers, future.result(), strict=True)
        }
        counted = _counters(client)
    return Answered(
        tokens=[tokens[number] for number in range(len(cases))],
        preemptions=round(counted.get("preemptions", 0)),
        cached_tokens=round(counted.get("prefix_cache_hits", 0)),
        drafted=round(counted.get("drafted_tokens", 0)),
        accepted=round(counted.get("accepted_tokens", 0)),
    )


def _requests(manner: Manner, cases: Sequence[Case]) -> list[tuple[int, ...]]:
    """The cases of a manner by their numbers, request by request.

    Those that are to press on the cache are one: they meet each other however busy this machine is.
    """
    numbers = [number for number, case in enumerate(cases) if case.manner == manner]
    return [tuple(numbers)] if manner == "preempted" else [(number,) for number in numbers]


def _counters(client: httpx.Client) -> Metrics:
    try:
        return read_metrics(client, str(client.base_url), VLLM_METRICS)
    except NoAnswer as error:
        raise OverspanError(f"the engine's metrics cannot be read: {error.what}") from None


def _ask(client: httpx.Client, model: str, cases: Sequence[Case]) -> list[list[int]]:
    """The tokens of cases that are alike, asked as one request."""
    first = cases[0]
    body: dict[str, Any] = {
        "model": model,
        "prompt": [case.prompt for case in cases],
        "max_tokens": first.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if first.salt:
        body["cache_salt"] = first.salt
    try:
        reply = client.post("/completions", json=body)
    except httpx.HTTPError as error:
        raise OverspanError(f"a {first.manner} request failed: {type(error).__name__}: {error}") from None
    if reply.status_code != 200:
        raise OverspanError(f"a {first.manner} request got HTTP {reply.status_code}", quote=reply.text[:300])
    choices = sorted(reply.json()["choices"], key=lambda choice: int(choice["index"]))
    return [[int(token) for token in choice["token_ids"]] for choice in choices]
