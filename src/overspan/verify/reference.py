"""References: what a model that is known to be right gives after known tokens, stored, recorded, to compare with."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from overspan.catalog import files
from overspan.endpoint.client import Addressed, Client, NoAnswer
from overspan.endpoint.replies import STRANGE
from overspan.schema.base import Frozen
from overspan.schema.secrets import Secret

PROMPTS: Final = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def factorial(n):\n    ",
    "In the year 1969, people first",
    "One, two, three, four,",
    "La capitale de l'Italie est",
)
TOKENS: Final = 32
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
"""Engines keep token ids in 32 bits with a sign."""


class Continuation(Frozen):
    """Tokens that a model gave greedily after a prompt, each with its log probability and its lead over the next."""

    prompt: list[TokenId] = Field(min_length=1)
    tokens: list[TokenId] = Field(min_length=1)
    logprobs: list[float]
    margins: list[float]

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        counts = {len(self.tokens), len(self.logprobs), len(self.margins)}
        if len(counts) > 1 or not all(map(math.isfinite, [*self.logprobs, *self.margins])):
            raise ValueError("tokens, logprobs and margins must be as many, and finite")
        return self


class Reference(Frozen):
    """What a model gives, written down once."""

    model: str = Field(description="Hugging Face id")
    source: str = Field(description="what gave it: program, versions, precision, date")
    continuations: list[Continuation] = Field(min_length=1)


def stored(model: str) -> Reference | None:
    """The reference that ships for a model, or None."""
    for item in sorted((files.FOLDER / "references").glob("*.json")):
        found = Reference.model_validate_json(item.read_bytes())
        if found.model == model:
            return found
    return None


def record(endpoint: Addressed, source: str, api_key: Secret | None = None) -> Reference:
    """The reference of an endpoint: greedy tokens after a few prompts, with their log probabilities.

    Args:
        endpoint: a vLLM server; others tell no token ids.
        source: what it is: model, layout, precision, versions.
        api_key: its key.

    Raises:
        NoAnswer: it refused, or tells no token ids and log probabilities.
    """
    client = Client(endpoint, api_key)
    try:
        found = [_continuation(client, endpoint.model, prompt) for prompt in PROMPTS]
    finally:
        client.close()
    return Reference(model=endpoint.model, source=source, continuations=found)


def _continuation(client: Client, model: str, prompt: str) -> Continuation:
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "max_tokens": TOKENS,
        "temperature": 0,
        "logprobs": 2,
        "return_token_ids": True,
    }
    reply = client.post("/completions", body)
    try:
        choice = reply["choices"][0]
        best = [sorted(each.values(), reverse=True) for each in choice["logprobs"]["top_logprobs"]]
        return Continuation(
            prompt=choice["prompt_token_ids"],
            tokens=choice["token_ids"],
            logprobs=choice["logprobs"]["token_logprobs"],
            margins=[values[0] - values[1] for values in best],
        )
    except STRANGE:
        quote = json.dumps(reply)[:300]
        raise NoAnswer("the endpoint tells no token ids with their log probabilities", quote=quote) from None
