"""Write down what an endpoint that is known to be right gives, for others to be compared with."""

from __future__ import annotations

import json
from typing import Any, Final

from overspan.endpoint.client import Addressed, Client, NoAnswer
from overspan.endpoint.replies import STRANGE
from overspan.verify.reference import Continuation, Reference

PROMPTS: Final = (
    "The capital of France is",
    "Water boils at a temperature of",
    "def factorial(n):\n    ",
    "In the year 1969, people first",
    "One, two, three, four,",
    "La capitale de l'Italie est",
)
TOKENS: Final = 32


def record(endpoint: Addressed, source: str, api_key: str | None = None) -> Reference:
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
