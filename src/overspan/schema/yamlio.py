"""Read YAML so that every error names its line and column, and make a document of it."""

from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from overspan.schema.errors import RecipeError, did_you_mean
from overspan.schema.reading import read_text

Document = TypeVar("Document", bound=BaseModel)
Place = tuple[str | int, ...]


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it: the same language, eight times as fast."""


_MOST_BY_ALIASES: Final = 100_000
"""Values that a document with aliases may hold, each alias counted as what it stands for."""

_MOST_SHOWN: Final = 200
"""Characters of a document's text in one message."""


class _UniqueKeyLoader(_SafeLoader):  # type: ignore[misc]
    """YAML's safe loader. A key that stands twice in one mapping is an error, not a silent loss; `twice` has them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[yaml.MarkedYAMLError] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    what = f"the key '{key.value}' appears twice"
                    self.twice.append(yaml.constructor.ConstructorError(None, None, what, key.start_mark))
                seen.add(key.value)
        held: dict[Any, Any] = super().construct_mapping(node, deep)
        return held


def plain(text: str) -> Any:
    """What shipped YAML holds, without its places."""
    return yaml.load(text, Loader=_SafeLoader)  # noqa: S506 - a SafeLoader


def read_yaml(text: str, file: str, twice: list[RecipeError] | None = None) -> tuple[Any, dict[Place, tuple[int, int]]]:
    """Parse one YAML document.

    Args:
        text: the document.
        file: what to call its file.
        twice: gets an error for each key that stands twice; without it the first of them is raised.

    Returns:
        The data, and for each place in it (a tuple of keys and indices) its line and column, from 1.

    Raises:
        RecipeError: malformed YAML, with file, line and column.
    """
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        _refuse_bomb(node, text, file)
        data = None if node is None else loader.construct_document(node)
        places: dict[Place, tuple[int, int]] = {}
        if node is not None:
            _mark(node, (), places)
        if loader.twice and twice is None:
            raise loader.twice[0]
        if twice is not None:
            twice += [_malformed(each, text, file) for each in loader.twice]
    except yaml.YAMLError as error:
        raise _malformed(error, text, file) from None
    except RecursionError:
        raise RecipeError(f"{file}: the values are nested too deeply") from None
    return data, places


def _malformed(error: yaml.YAMLError, text: str, file: str) -> RecipeError:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        lines = text.splitlines()
        quote = _around(lines[mark.line], mark.column) if mark.line < len(lines) else None
        what = f"{file}, line {mark.line + 1}, column {mark.column + 1}: {error.problem or 'malformed YAML'}"
        found = RecipeError(what, quote=quote, next=f"correct that line of {file}")
        found.at = (mark.line + 1, mark.column + 1)
        return found
    return RecipeError(f"{file}: malformed YAML: {' '.join(str(error).split())}")


def _around(line: str, column: int) -> str:
    """The part of a long line that a column is in."""
    begin = max(0, min(column - _MOST_SHOWN // 2, len(line) - _MOST_SHOWN))
    part = line[begin : begin + _MOST_SHOWN]
    return f"{'...' if begin else ''}{part}{'...' if begin + len(part) < len(line) else ''}"


def _shown(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text):,} characters)"


def _refuse_bomb(node: yaml.Node | None, text: str, file: str) -> None:
    """Refuse aliases that stand in their own anchor, or make a small document a huge one, before anything expands."""
    held: dict[int, int] = {}

    def count(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in held:
            if not held[id(node)]:
                raise RecipeError(
                    f"{file}, line {node.start_mark.line + 1}: an alias stands inside its own anchor",
                    quote=_around(text.splitlines()[node.start_mark.line], node.start_mark.column),
                    next=f"correct that anchor of {file}",
                )
            return held[id(node)]
        held[id(node)] = 0
        inner = (part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,)))
        held[id(node)] = 1 + sum(map(count, inner))
        return held[id(node)]

    if node is not None and "*" in text and (total := count(node)) > _MOST_BY_ALIASES:
        what = f"{file}: its aliases make {total:,} values of it; {_MOST_BY_ALIASES:,} is the most"
        raise RecipeError(what, next="write the values out, or use fewer aliases")


def _mark(node: yaml.Node, place: Place, places: dict[Place, tuple[int, int]]) -> None:
    places.setdefault(place, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            places[inner] = (key.start_mark.line + 1, key.start_mark.column + 1)
            _mark(value, inner, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, (*place, index), places)


def make(
    document: type[Document], data: Any, file: str, places: dict[Place, tuple[int, int]] | None = None
) -> Document:
    """Make a document of parsed data.

    Raises:
        RecipeError: one clear error for the first field that is wrong: where, what, and the nearest right ones.
    """
    made = _made(document, data, file, places or {})
    if isinstance(made, list):
        raise made[0]
    return made


def problems(
    document: type[Document], text: str, file: str
) -> tuple[Any, dict[Place, tuple[int, int]], list[RecipeError]]:
    """What a text holds, its places, and every problem of it at once; of malformed YAML the first one alone."""
    twice: list[RecipeError] = []
    try:
        data, places = read_yaml(text, file, twice)
    except RecipeError as error:
        return None, {}, [error]
    made = _made(document, data, file, places)
    return data, places, [*twice, *made] if isinstance(made, list) else twice


def _made(
    document: type[Document], data: Any, file: str, places: dict[Place, tuple[int, int]]
) -> Document | list[RecipeError]:
    if not isinstance(data, dict):
        return [RecipeError(f"{file}: expected keys and values at the top, found {type(data).__name__}")]
    try:
        return document.model_validate(data)
    except ValidationError as error:
        return [_problem(document, each, file, places) for each in error.errors(include_url=False)]


def problem_at(place: Place, what: str, file: str, places: dict[Place, tuple[int, int]]) -> RecipeError:
    """A problem with the line of its place, or of the nearest place around it; `{}` in `what` stands for the field."""
    at = next((places[place[:end]] for end in range(len(place), -1, -1) if place[:end] in places), None)
    where = f"{file}, line {at[0]}, column {at[1]}" if at else file
    field = ".".join(str(part) for part in place) or "document"
    found = RecipeError(f"{where}: {what.replace('{}', _shown(field), 1)}")
    found.at, found.field = at, field
    return found


def _problem(document: type[BaseModel], problem: Any, file: str, places: dict[Place, tuple[int, int]]) -> RecipeError:
    place: Place = tuple(problem["loc"])
    if problem["type"] == "extra_forbidden":
        names = _fields_at(document, place[:-1])
        found = problem_at(place, "unknown key {}" + did_you_mean(str(place[-1]), names), file, places)
        found.next = f"known keys there: {', '.join(sorted(names))}"
        return found
    if problem["type"] == "missing":
        return problem_at(place, "{} is required", file, places)
    given = problem.get("input")
    shown = "" if isinstance(given, (dict, list)) else f" (given: {_shown(given)})"
    return problem_at(place, "{}: " + problem["msg"].removeprefix("Value error, ") + shown, file, places)


def _fields_at(document: type[BaseModel], place: Place) -> list[str]:
    """The field names of the model at a place; those of the document itself when the place is not a plain model."""
    current: type[BaseModel] = document
    for part in place:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return list(current.model_fields)
        current = inner
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def load(document: type[Document], path: Path) -> Document:
    """Read a document from a YAML file.

    Raises:
        RecipeError: the file cannot be read, is malformed, or does not hold such a document.
    """
    data, places = read_yaml(read_text(path), str(path))
    return make(document, data, str(path), places)


def dump(document: BaseModel) -> str:
    """A document as YAML, fields in the order of their definition, defaults left out."""
    data = document.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
