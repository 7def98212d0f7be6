"""What is verified, and how a rule says what it found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from overspan.endpoint.client import Addressed, Client
from overspan.endpoint.replies import ModelReply
from overspan.schema.finding import Evidence, Finding
from overspan.schema.recipe import KnownAnswer, Recipe
from overspan.schema.secrets import Secret
from overspan.verify.reference import Reference

Parsing = Literal["asked", "not_asked", "unknown"]
"""Whether the recipe switches a parser on; of an endpoint without a recipe nobody knows."""


ANSWER_S: Final = 300.0
"""A request of a burst may wait for all the others before its first token, so that it gets longer than a lone one."""


class Asker(Client):
    """A client that keeps what it was told in `said`, for the rules that look at all of it."""

    def __init__(self, endpoint: Addressed, api_key: Secret | None = None) -> None:
        super().__init__(endpoint, api_key, ANSWER_S)
        self.said: list[ModelReply] = []

    def _ask(self, path: str, body: dict[str, Any], *, stream: bool) -> ModelReply:
        reply = super()._ask(path, body, stream=stream)
        self.said.append(reply)
        return reply


@dataclass(frozen=True)
class Subject:
    """An endpoint and what is known of it."""

    endpoint: Addressed
    api_key: Secret | None = field(default=None, repr=False)
    known_answers: list[KnownAnswer] = field(default_factory=list)
    tools: Parsing = "unknown"
    reasoning: Parsing = "unknown"
    reference: Reference | None = None
    hf_id: str | None = None
    drawn: bool = False
    """Whether its weights were drawn in place of read: what it says means nothing."""

    @property
    def other_model(self) -> str:
        """A sentence on a reference that is of a model by another name; nothing where the names agree."""
        names = {self.endpoint.model, self.hf_id or self.endpoint.model}
        if self.reference is None or self.reference.model in names:
            return ""
        return f"; the reference is of {self.reference.model}, the endpoint serves {self.endpoint.model}"


def subject_of(
    recipe: Recipe, endpoint: Addressed, api_key: Secret | None = None, reference: Reference | None = None
) -> Subject:
    """The subject of a recipe that runs."""
    args = recipe.engine_args
    tools = bool(args.get("tool_call_parser")) and bool(args.get("enable_auto_tool_choice"))
    return Subject(
        endpoint,
        api_key,
        list(recipe.known_answers),
        "asked" if tools else "not_asked",
        "asked" if args.get("reasoning_parser") else "not_asked",
        reference,
        recipe.model,
        recipe.has_drawn_weights,
    )


DRAWN: Final = "the weights were drawn and not read: what the answers say means nothing"

UNNAMED: Final = "verify"
"""Of a finding until the table of rules gives it the rule's name."""


def passed(seen: str) -> Finding:
    """A rule that holds, with what was seen."""
    return Finding(rule=UNNAMED, status="passed", evidence=Evidence(text=seen))


def failed(seen: str, cause: str, fix: str | None = None) -> Finding:
    """A rule that is broken: what was seen, what that means, and what to do."""
    return Finding(rule=UNNAMED, status="failed", evidence=Evidence(text=seen), cause=cause, fix=fix)


def not_evaluated(cause: str, fix: str | None = None) -> Finding:
    """A rule that could not be checked, and why."""
    return Finding(rule=UNNAMED, status="not_evaluated", severity="info", cause=cause, fix=fix)


def shown(text: str, most: int = 120) -> str:
    """A text of the model in one line of a finding; broken characters are shown by their numbers."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return repr(safe if len(safe) <= most else safe[:most] + "...")


def agreeing(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    length = min(len(one), len(other))
    return next((at for at in range(length) if one[at] != other[at]), length)
