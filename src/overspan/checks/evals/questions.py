"""A file of questions, and when a reply is right. Pure."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError

Match = Literal["contains", "exact", "number", "choice"]
_NUMBER: Final = re.compile(r"(?:(?<![\w)])[-\u2212])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
"""A dash after a digit or a word is none of its signs: 1-3, GPT-4."""
_CHOICE: Final = re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z'])")


class Question(Frozen):
    """One line of the file.

    `match` says when a reply is right: it `contains` the answer as words of its own, is `exact`ly the answer, its last
    `number` is the answer, or its last single letter is (`choice`). Case never counts.
    """

    id: str | None = None
    prompt: str = Field(min_length=1)
    answer: list[str] = Field(min_length=1, description="one, or several that are all right")
    match: Match = "contains"
    max_tokens: int | None = Field(None, ge=1)

    @field_validator("answer", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return [str(value)]
        return value

    @model_validator(mode="after")
    def _can_be_right(self) -> Self:
        for answer in self.answer:
            if not answer.strip():
                raise ValueError("an empty answer would be right, or wrong, whatever is said")
            if self.match == "number" and not isinstance(_value(answer), float):
                raise ValueError(f"'{answer}' is no number, and match is number")
            if self.match == "choice" and not _CHOICE.fullmatch(answer.strip().upper()):
                raise ValueError(f"'{answer}' is no letter from A to J, and match is choice")
        return self

    def right(self, reply: str) -> bool:
        """Whether a reply is right."""
        return any(_RIGHT[self.match](reply, answer) for answer in self.answer)


def read(path: Path) -> list[Question]:
    """The questions of a file, one JSON object a line: `{"prompt": ..., "answer": ...}`.

    Raises:
        InputError: it cannot be read, or a line is no question; names line and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    questions = [_question(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not questions:
        raise InputError(f"{path} holds no question", next='one a line: {"prompt": "...", "answer": "..."}')
    names = Counter(question.id for question in questions if question.id is not None)
    twice = next((name for name, times in names.items() if times > 1), None)
    if twice is not None:
        raise InputError(f"{path}: the id '{twice}' stands twice")
    return questions


def _question(line: str, path: Path, number: int) -> Question:
    try:
        return Question.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: no JSON: {error.msg}", quote=line[:120]) from None
    except RecursionError:
        raise InputError(f"{path}, line {number}: too many brackets in each other", quote=line[:120]) from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "the line"
        known = ", ".join(Question.model_fields)
        raise InputError(f"{path}, line {number}: {field}: {problem['msg']}", next=f"fields: {known}") from None


def _contains(reply: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer.casefold())}(?!\w)", reply.casefold()) is not None


def _exact(reply: str, answer: str) -> bool:
    return reply.strip().casefold() == answer.strip().casefold()


def _number(reply: str, answer: str) -> bool:
    found = _NUMBER.findall(reply)
    return bool(found) and _value(found[-1]) == _value(answer)


def _value(text: str) -> float | str:
    try:
        found = float(text.replace(",", "").replace("\u2212", "-"))
    except ValueError:
        return text
    return found if math.isfinite(found) else text


def _choice(reply: str, answer: str) -> bool:
    found = _CHOICE.findall(reply)
    return bool(found) and found[-1] == answer.strip().upper()


_RIGHT: Final = {"contains": _contains, "exact": _exact, "number": _number, "choice": _choice}
