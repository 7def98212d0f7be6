"""Prompts of a wanted length, no two with a common beginning, and the bodies that carry them."""

from __future__ import annotations

import json
import random
from typing import Any, Final, Literal

Endpoint = Literal["chat", "completions"]

_NOUNS: Final = """
time year people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother area
money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy
moment air teacher force education
"""
WORDS: Final = tuple(_NOUNS.split())
"""Common English nouns: with a space before it each is one token in the vocabularies of GPT-2, Llama 3, Qwen and
SmolLM2. Whether that holds on the server at hand is seen from its own count, not assumed."""

_POOL_WORDS: Final = 1 << 14

EXTRAS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("vLLM's fields", {"ignore_eos": True, "temperature": 0.0}),
    ("plain OpenAI fields", {"temperature": 0.0}),
    ("no optional fields", {}),
)
"""What is asked beside the prompt, richest first; a server that refuses unknown fields gets the next."""


class Prompts:
    """Seeded prompts and their request bodies.

    Args:
        endpoint: `chat` or `completions`.
        model: the name that the server knows.
        words: length of each prompt.
        output_tokens: how many tokens to ask for.
        extras: optional fields of the body.
        usage: ask for the server's count at the end of the stream.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        *,
        seed: str,
        output_tokens: int,
        extras: dict[str, Any],
        usage: bool = True,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        picked = self._random.choices(WORDS, k=_POOL_WORDS)
        self._text = " ".join(picked).encode()
        self._starts = [0]
        for word in picked:
            self._starts.append(self._starts[-1] + len(word) + 1)
        self._endpoint: Endpoint = endpoint
        fields: dict[str, Any] = {"model": model, **extras, "stream": True}
        if usage:
            fields["stream_options"] = {"include_usage": True}
        self._output_tokens = output_tokens
        self._fields = fields

    def text(self, words: int) -> bytes:
        """A prompt of so many words: a window of the pool, at a place of its own."""
        parts = []
        while words > 0:
            count = min(words, _POOL_WORDS // 2)
            begin = self._random.randrange(_POOL_WORDS - count)
            parts.append(self._text[self._starts[begin] : self._starts[begin + count] - 1])
            words -= count
        return b" ".join(parts)

    def body(self, words: int, output_tokens: int | None = None) -> bytes:
        """The JSON body of one request."""
        return self.body_of(self.text(words).decode(), output_tokens)

    def body_of(self, prompt: str | list[dict[str, str]], output_tokens: int | None = None) -> bytes:
        """The JSON body of one request with a given prompt, or given chat messages."""
        fields = {**self._fields, "max_tokens": output_tokens or self._output_tokens}
        if self._endpoint == "chat":
            messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
            return json.dumps({**fields, "messages": messages}, separators=(",", ":")).encode()
        text = "\n".join(m["content"] for m in prompt) if isinstance(prompt, list) else prompt
        return json.dumps({**fields, "prompt": text}, separators=(",", ":")).encode()


def path_of(endpoint: Endpoint) -> str:
    """The path below the base URL."""
    return "/chat/completions" if endpoint == "chat" else "/completions"
