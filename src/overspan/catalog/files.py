"""The files of the catalogue."""

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent


def text(*path: str) -> str:
    """The text of one file of the catalogue, by the parts of its path below it."""
    return FOLDER.joinpath(*path).read_text(encoding="utf-8")
