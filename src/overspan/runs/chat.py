"""A conversation with an endpoint: a run's, or any other."""

from __future__ import annotations

from collections.abc import Iterator

from overspan.endpoint.client import Addressed, Client
from overspan.runs.status import status
from overspan.schema.errors import NotReady
from overspan.schema.secrets import Secret
from overspan.store import run_secrets
from overspan.store.run_folder import RunFolder


def of_run(run: RunFolder) -> tuple[Addressed, Secret | None]:
    """Where a run answers, and its key.

    Raises:
        NotReady: the run does not answer requests.
    """
    now = status(run)
    if not now.ready:
        raise NotReady(f"run {run.id} is {now.state}: {now.message}", next=f"overspan status {run.id}")
    return run.plan().endpoint, run_secrets.key_of(run)


class Conversation:
    """Keeps what was said, so that each question is asked in its context."""

    def __init__(self, endpoint: Addressed, key: Secret | None, max_tokens: int, temperature: float) -> None:
        self._client = Client(endpoint, key)
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
