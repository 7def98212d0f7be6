"""A stored reference: what a model gave after known tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError

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


def load(path: Path) -> Reference:
    """A reference of the user's own.

    Raises:
        InputError: it cannot be read or is none; names the field.
    """
    try:
        return Reference.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"reference {path}: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InputError(f"reference {path}: {place or 'the document'}: {problem['msg']}") from None
