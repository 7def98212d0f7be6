"""A file of questions, and when a reply is right. Pure."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from overspan.schema.base import Frozen
from overspan.schema.errors import InputError
from overspan.schema.reading import MOST_JSON, json_of, read_text
from overspan.store.files import problem_of

Match = Literal["contains", "exact", "number", "choice"]
_NUMBER: Final = re.compile(
    r"(?:(?<![\w)])[-\u2212])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+\u2212]?\d{1,3}(?![A-Za-z\d]))?"
)
"""A dash after a digit or a word is none of its signs: 1-3, GPT-4."""
_LETTERS: Final = frozenset("ABCDEFGHIJ")
_LETTER: Final = re.compile(
    r"(?<![A-Za-z0-9\u00c0-\u024f])(?<![A-Za-z]['\u2019])[A-Ja-j](?!['\u2019]?[A-Za-z0-9\u00c0-\u024f])"
)
_MARKED_BEFORE: Final = re.compile(
    r"[(\[{*`\"']$|\b(?:answer|option|choice|letter)(?:\s+(?:is|was|would be|should be))?[\s:=]*$", re.I
)
_MARKED_AFTER: Final = re.compile(r"[)\]}*`\"':]")
_VERBS: Final = {
    "A": "and|are|as|because|can|does|has|is|must|or|seems|should|since|was|will|would|fits|gives|holds|matches|says",
    "I": "and|are|because|is|or|seems|since|fits|gives|holds|matches|says",
}
"""What follows these letters where they are a choice; before other words they are an article and a pronoun."""
_UNSPACED: Final = (
    *("CJK ", "IDEOGRAPHIC ", "HIRAGANA ", "KATAKANA", "HALFWIDTH ", "BOPOMOFO ", "YI ", "THAI ", "LAO ", "KHMER "),
    *("MYANMAR ", "TIBETAN ", "JAVANESE ", "BALINESE ", "TAI ", "NEW TAI ", "HANGUL "),
)
"""Scripts that put no space between words, by the names of their characters in Unicode; Hangul puts none before
particles."""


class Question(Frozen):
    """One line of the file.

    `match` says when a reply is right: it `contains` the answer (as words of its own, in scripts that have spaces), is
    `exact`ly the answer, its last `number` is the answer, or the last letter that it names is (`choice`: capitals that
    are no word, `(b)`, `answer: b`, `b` at the end). Case and how a character is composed never count.
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
                raise ValueError("an empty answer cannot be compared")
            if self.match == "number" and not isinstance(_value(answer), float):
                raise ValueError(f"'{answer}' is not a number, but match is number")
            if self.match == "choice" and answer.strip().upper() not in _LETTERS:
                raise ValueError(f"'{answer}' is not a letter from A to J, but match is choice")
        return self

    def right(self, reply: str) -> bool:
        """Whether a reply is right."""
        return any(_RIGHT[self.match](reply, answer) for answer in self.answer)


def read(path: Path) -> list[Question]:
    """The questions of a file, one JSON object a line: `{"prompt": ..., "answer": ...}`.

    Raises:
        InputError: it cannot be read, or a line is no question; names line and field.
    """
    text = read_text(path, most=MOST_JSON, encoding="utf-8-sig")
    questions = [_question(line, path, number) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not questions:
        raise InputError(f"{path} holds no question", next='one a line: {"prompt": "...", "answer": "..."}')
    names = Counter(question.id for question in questions if question.id is not None)
    twice = next((name for name, times in names.items() if times > 1), None)
    if twice is not None:
        raise InputError(f"{path}: the id '{twice}' appears twice")
    return questions


def _question(line: str, path: Path, number: int) -> Question:
    try:
        return Question.model_validate(json_of(line))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: not JSON: {error.msg}", quote=line[:120]) from None
    except ValidationError as error:
        known = ", ".join(Question.model_fields)
        what = f"{path}, line {number}: {problem_of(error, 'the line')}"
        raise InputError(what, next=f"fields: {known}") from None


def _contains(reply: str, answer: str) -> bool:
    text, sought = _folded(reply), _folded(answer.strip())
    at = text.find(sought)
    while at >= 0:
        end = at + len(sought)
        inside = _joined(text[at - 1 : at], sought[0]) or _joined(sought[-1], text[end : end + 1])
        if not inside:
            return True
        at = text.find(sought, at + 1)
    return False


def _folded(text: str) -> str:
    """Equal for texts that differ in case, or in how their characters are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _joined(left: str, right: str) -> bool:
    """Whether two neighbours stand in one word; either may be missing."""
    if not left or not right or not _of_word(left):
        return False
    mark = unicodedata.category(right)[0] == "M"  # it changes the character before it, in any script
    return mark or (_of_word(right) and not _unspaced(left) and not _unspaced(right))


def _of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LMN" or character == "_"


def _unspaced(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_UNSPACED)


def _exact(reply: str, answer: str) -> bool:
    return _folded(reply.strip()) == _folded(answer.strip())


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
    named = [match[0].upper() for match in _LETTER.finditer(reply) if _is_choice(match)]
    return bool(named) and named[-1] == answer.strip().upper()


def _is_choice(match: re.Match[str]) -> bool:
    """Whether a letter that stands alone is a choice; I, a and i.e. are words."""
    letter, before, after = match[0], match.string[: match.start()], match.string[match.end() :]
    verbs = _VERBS.get(letter.upper())
    if verbs and re.match(rf"\s+(?!(?:{verbs})\b)[a-z]", after):
        return False
    if letter.isupper():
        return True
    if re.match(r"\.[a-z]", after) or re.search(r"[a-z]\.$", before):
        return False
    first, last = not before.strip(), not re.search(r"\w", after)
    return first or last or bool(_MARKED_BEFORE.search(before[-40:]) or _MARKED_AFTER.match(after))


_RIGHT: Final = {"contains": _contains, "exact": _exact, "number": _number, "choice": _choice}
