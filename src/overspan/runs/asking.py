"""Ask a twin every case in its manner, and give the token ids of each answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import httpx

from overspan.schema.errors import OverspanError
from overspan.schema.plan import Endpoint
from overspan.twin.compare import Case, Manner

STAGGER_S: Final = 0.05
"""About a step of a twin: each arrival meets the others at another place."""
TIMEOUT_S: Final = 300.0
_ROUNDS: Final[tuple[tuple[Manner, ...], ...]] = (
    ("batch", "long"),
    ("staggered",),
    ("chunked",),
    ("prefix",),
    ("uncached",),
)
"""What is in flight together."""


def ask(endpoint: Endpoint, cases: Sequence[Case]) -> list[list[int]]:
    """The tokens of each case, in the order of the cases.

    Raises:
        OverspanError: a request failed; quotes the engine.
    """
    answers: dict[int, Future[list[int]]] = {}
    with (
        httpx.Client(base_url=endpoint.base_url, timeout=TIMEOUT_S, trust_env=False) as client,
        ThreadPoolExecutor(max_workers=len(cases)) as pool,
    ):
        for manners in _ROUNDS:
            now = [number for number, case in enumerate(cases) if case.manner in manners]
            for number in now:
                answers[number] = pool.submit(_ask, client, endpoint.model, cases[number])
                if cases[number].manner == "staggered":
                    time.sleep(STAGGER_S)
                elif cases[number].manner == "prefix":
                    answers[number].result()  # the next one finds its prefix in the cache
            for number in now:
                answers[number].result()
    return [answers[number].result() for number in range(len(cases))]


def _ask(client: httpx.Client, model: str, case: Case) -> list[int]:
    body: dict[str, Any] = {
        "model": model,
        "prompt": case.prompt,
        "max_tokens": case.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if case.salt:
        body["cache_salt"] = case.salt
    try:
        reply = client.post("/completions", json=body)
    except httpx.HTTPError as error:
        raise OverspanError(f"a {case.manner} request failed: {type(error).__name__}: {error}") from None
    if reply.status_code != 200:
        raise OverspanError(f"a {case.manner} request got HTTP {reply.status_code}", quote=reply.text[:300])
    return [int(token) for token in reply.json()["choices"][0]["token_ids"]]
