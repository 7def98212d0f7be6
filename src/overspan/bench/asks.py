"""What each request says: seeded prompts of wanted lengths, conversations with a shared prefix, or a trace."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

from overspan.bench.lengths import Lengths
from overspan.bench.prompts import Bodies, Message
from overspan.bench.trace import Entry


class Asks(Protocol):
    """Gives the body of a user's n-th request. The same seed, user and step give the same body, in any order."""

    def body(self, user: int, step: int) -> bytes:
        """The JSON body."""
        ...


class Synthetic:
    """Prompts of words, alone or in conversations.

    Args:
        overhead: tokens that the server adds to each prompt.
        turns: requests of one conversation. Each repeats the ones before it, with an answer of the asked length in
            between (made of words too: the load does not depend on what the server answered).
        prefix_words: every prompt begins with these same words, as a system message in chat.
    """

    def __init__(
        self,
        bodies: Bodies,
        *,
        seed: str,
        inputs: Lengths,
        outputs: Lengths,
        overhead: int = 0,
        turns: int = 1,
        prefix_words: int = 0,
    ) -> None:
        self._bodies = bodies
        self._seed = seed
        self._inputs = inputs
        self._outputs = outputs
        self._overhead = overhead + prefix_words
        self._turns = turns
        prefix = bodies.text(prefix_words, self._draw("prefix"))
        self._opening: list[Message] = [{"role": "system", "content": prefix}] if prefix_words else []

    def _draw(self, of: str) -> random.Random:
        return random.Random(f"{self._seed}/{of}")  # noqa: S311 - not for secrets

    def body(self, user: int, step: int) -> bytes:
        """See `Asks`."""
        conversation, turn = divmod(step, self._turns)
        draw = self._draw(f"{user}/{conversation}")
        messages = list(self._opening)
        for _ in range(turn):
            messages.append({"role": "user", "content": self._bodies.text(self._words(draw), draw)})
            messages.append({"role": "assistant", "content": self._bodies.text(self._outputs.draw(draw), draw)})
        messages.append({"role": "user", "content": self._bodies.text(self._words(draw), draw)})
        return self._bodies.body(messages, self._outputs.draw(draw))

    def _words(self, draw: random.Random) -> int:
        return max(1, self._inputs.draw(draw) - self._overhead)


class Replay:
    """The requests of a trace in their order, begun again once they are used up.

    Args:
        overhead: tokens that the server adds to each prompt; a trace's lengths hold them.
    """

    def __init__(self, bodies: Bodies, entries: Sequence[Entry], *, overhead: int = 0) -> None:
        self._bodies = bodies
        self._entries = entries
        self._overhead = overhead

    def body(self, user: int, step: int) -> bytes:
        """See `Asks`."""
        entry = self._entries[user % len(self._entries)]
        text = entry.text if entry.text is not None else self._blocks(entry)
        return self._bodies.body([{"role": "user", "content": text}], entry.output_tokens)

    def _blocks(self, entry: Entry) -> str:
        parts, left = [], max(1, entry.input_tokens - self._overhead)
        for block in entry.hash_ids:
            words = self._bodies.text(entry.block_tokens, random.Random(block)).split()[:left]  # noqa: S311
            parts += words
            left -= len(words)
        parts.append(self._bodies.text(left, random.Random(repr(entry))))  # noqa: S311
        return " ".join(parts).strip()
