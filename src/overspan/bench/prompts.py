"""What each request says: seeded prompts of wanted lengths, conversations with a shared prefix, or a trace."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from overspan.bench.lengths import Lengths
from overspan.bench.stream import Message
from overspan.bench.trace import TraceRequest
from overspan.catalog.words import WORDS
from overspan.endpoint.client import NEWER_LIMIT

ApiKind = Literal["chat", "completions"]
ChatMessage = dict[str, str]

_POOL_WORDS: Final = 1 << 14

EXTRAS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("vLLM's fields", {"ignore_eos": True, "temperature": 0.0}),
    ("plain OpenAI fields", {"temperature": 0.0}),
    ("no optional fields", {}),
    ("OpenAI's newer limit", {NEWER_LIMIT: True}),
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
        endpoint: ApiKind,
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
        self._endpoint: ApiKind = endpoint
        extras = dict(extras)
        self._limit = NEWER_LIMIT if extras.pop(NEWER_LIMIT, False) and endpoint == "chat" else "max_tokens"
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

    def body(self, messages: list[ChatMessage], output_tokens: int) -> bytes:
        """The JSON body that asks for an answer to these messages."""
        fields = {**self._fields, self._limit: output_tokens}
        if self._endpoint == "chat":
            fields["messages"] = messages
        else:
            fields["prompt"] = " ".join(message["content"] for message in messages)
        return json.dumps(fields, separators=(",", ":")).encode()


def path_of(endpoint: ApiKind) -> str:
    """The path below the base URL."""
    return "/chat/completions" if endpoint == "chat" else "/completions"


@dataclass
class Synthetic:
    """Prompts of words, alone or in conversations. The same seed, user and step give the same body, in any order.

    Args:
        overhead: tokens that the server adds to each prompt.
        turns: requests of one conversation. Each repeats the ones before it, with an answer of the asked length in
            between (made of words too: the load does not depend on what the server answered).
        prefix_words: every prompt begins with these same words, as a system message in chat.
    """

    bodies: Bodies
    seed: str
    inputs: Lengths
    outputs: Lengths
    overhead: int = 0
    turns: int = 1
    prefix_words: int = 0

    def __post_init__(self) -> None:
        prefix = self.bodies.text(self.prefix_words, self._draw("prefix"))
        self._opening: list[ChatMessage] = [{"role": "system", "content": prefix}] if self.prefix_words else []

    def _draw(self, of: str) -> random.Random:
        return random.Random(f"{self.seed}/{of}")  # noqa: S311 - not for secrets

    def body(self, user: int, step: int) -> Message:
        """The JSON body of a user's n-th request, both from 0."""
        conversation, turn = divmod(step, self.turns)
        draw = self._draw(f"{user}/{conversation}")
        messages = list(self._opening)
        wanted = 0
        for each in range(turn + 1):
            drawn = self.inputs.draw(draw)
            words = max(1, drawn - self.overhead - self.prefix_words)
            wanted += words if each else drawn
            messages.append({"role": "user", "content": self.bodies.text(words, draw)})
            if each < turn:
                answer = self.outputs.draw(draw)
                wanted += answer
                messages.append({"role": "assistant", "content": self.bodies.text(answer, draw)})
        output = self.outputs.draw(draw)
        return Message.of(self.bodies.body(messages, output), wanted, output)


@dataclass
class Replay:
    """The requests of a trace in their order, begun again once they are used up.

    Args:
        overhead: tokens that the server adds to each prompt; a trace's lengths hold them.
    """

    bodies: Bodies
    requests: Sequence[TraceRequest]
    overhead: int = 0

    def body(self, user: int, step: int) -> Message:
        """The JSON body of a user's request."""
        request = self.requests[user % len(self.requests)]
        text = request.text if request.text is not None else self._blocks(request)
        body = self.bodies.body([{"role": "user", "content": text}], request.output_tokens)
        return Message.of(body, request.input_tokens if request.text is None else None, request.output_tokens)

    def _blocks(self, request: TraceRequest) -> str:
        parts, left = [], max(1, request.input_tokens - self.overhead)
        for block in request.hash_ids:
            words = self.bodies.text(request.block_tokens, random.Random(block)).split()[:left]  # noqa: S311
            parts += words
            left -= len(words)
        parts.append(self.bodies.text(left, random.Random(repr(request))))  # noqa: S311
        return " ".join(parts).strip()
