"""Prompts of a wanted length, no two with a common beginning, and the bodies that carry them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final, Literal

from overspan.catalog.words import WORDS

Endpoint = Literal["chat", "completions"]
Message = dict[str, str]

_POOL_WORDS: Final = 1 << 14

_NEWER_LIMIT: Final = "max_completion_tokens"
"""In place of max_tokens, which OpenAI's reasoning models refuse. Source: OpenAI's API reference, chat completions."""

EXTRAS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("vLLM's fields", {"ignore_eos": True, "temperature": 0.0}),
    ("plain OpenAI fields", {"temperature": 0.0}),
    ("no optional fields", {}),
    ("OpenAI's newer limit", {_NEWER_LIMIT: True}),
)
"""What is asked beside the prompt, richest first; a server that refuses unknown fields gets the next."""


class Bodies:
    """Seeded texts and the JSON bodies that carry them.

    Args:
        model: the name that the server knows.
        extras: optional fields of the body.
        usage: ask for the server's count at the end of the stream.
        words: what texts are made of.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        *,
        seed: str,
        extras: dict[str, Any],
        usage: bool = True,
        words: Sequence[str] = WORDS,
    ) -> None:
        picked = random.Random(seed).choices(words, k=_POOL_WORDS)  # noqa: S311 - not for secrets
        self._text = " ".join(picked)
        self._starts = [0]
        for word in picked:
            self._starts.append(self._starts[-1] + len(word) + 1)
        self._endpoint: Endpoint = endpoint
        extras = dict(extras)
        self._limit = _NEWER_LIMIT if extras.pop(_NEWER_LIMIT, False) and endpoint == "chat" else "max_tokens"
        self._fields: dict[str, Any] = {"model": model, **extras, "stream": True}
        if usage:
            self._fields["stream_options"] = {"include_usage": True}

    def text(self, words: int, draw: random.Random) -> str:
        """So many words: windows of the pool, at places of their own."""
        parts = []
        while words > 0:
            count = min(words, _POOL_WORDS // 2)
            begin = draw.randrange(_POOL_WORDS - count)
            parts.append(self._text[self._starts[begin] : self._starts[begin + count] - 1])
            words -= count
        return " ".join(parts)

    def body(self, messages: list[Message], output_tokens: int) -> bytes:
        """The JSON body that asks for an answer to these messages."""
        fields = {**self._fields, self._limit: output_tokens}
        if self._endpoint == "chat":
            fields["messages"] = messages
        else:
            fields["prompt"] = " ".join(message["content"] for message in messages)
        return json.dumps(fields, separators=(",", ":")).encode()


def path_of(endpoint: Endpoint) -> str:
    """The path below the base URL."""
    return "/chat/completions" if endpoint == "chat" else "/completions"
