"""A conversation with a run's endpoint."""

from __future__ import annotations

from collections.abc import Iterator

from overspan.endpoint.client import Client
from overspan.runs.status import status
from overspan.schema.errors import NotReady
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder


class Conversation:
    """Keeps what was said, so that each question is asked in its context.

    Raises:
        NotReady: the run does not answer requests.
    """

    def __init__(self, run: RunFolder, max_tokens: int, temperature: float) -> None:
        now = status(run)
        if not now.ready:
            raise NotReady(f"run {run.id} is {now.state}: {now.message}", next=f"overspan status {run.id}")
        self._client = Client(run.plan().endpoint, run_secrets.key_of(run))
        self._said: list[dict[str, str]] = []
        self._max_tokens = max_tokens
        self._temperature = temperature

    def ask(self, question: str) -> Iterator[str]:
        """The answer, piece by piece as it arrives."""
        self._said.append({"role": "user", "content": question})
        answer = ""
        for piece in self._client.stream(self._said, self._max_tokens, self._temperature):
            answer += piece
            yield piece
        self._said.append({"role": "assistant", "content": answer})
