"""Documents that ship with Overspan, found by name; a file of the user's own, found by path."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from overspan.catalog import files
from overspan.schema.errors import UnknownName
from overspan.schema.reading import read_text
from overspan.schema.yamlio import Document, Place, make, plain, read_yaml

SUFFIXES = (".yaml", ".yml")


def names(folder: str) -> list[str]:
    """The names of what ships in one folder of the catalogue, sorted."""
    return list(_names(folder))


@functools.cache
def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in (files.FOLDER / folder).glob("*.yaml")))


def is_path(name: str) -> bool:
    """Whether a name means a file of the user's own rather than one that ships."""
    path = Path(name)
    return name.endswith(SUFFIXES) or path.is_file() or ((path.is_absolute() or name[:1] == ".") and not path.is_dir())


def text_of(folder: str, name: str, kind: str) -> tuple[str, str]:
    """The text of a document, and what to call it in messages.

    Raises:
        UnknownName: nothing of that name ships, with the nearest names.
        RecipeError: the file cannot be read.
    """
    if not is_path(name):
        if name not in names(folder):
            raise UnknownName(kind, name, names(folder))
        return files.text(folder, f"{name}.yaml"), f"{name} (ships with overspan)"
    return read_text(Path(name), f"{kind} file "), name


def find(document: type[Document], folder: str, name: str, kind: str) -> tuple[Document, str, dict[Place, Any]]:
    """A document by name or path, what to call its file, and the line and column of each of its places.

    Raises:
        UnknownName: nothing of that name ships.
        RecipeError: the file cannot be read, is malformed, or holds something else.
    """
    text, file = text_of(folder, name, kind)
    # What ships is sound (tests hold it): finding each place of it would take longer than reading it.
    data, places = read_yaml(text, file) if is_path(name) else (plain(text), {})
    return make(document, data, file, places), file, places
