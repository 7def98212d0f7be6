"""Recipes of other tools, told apart by what stands in them."""

from __future__ import annotations

from pathlib import Path

from overspan.catalog import sparkrun, srtslurm
from overspan.catalog.foreign import Imported
from overspan.schema.reading import read_text
from overspan.schema.yamlio import read_yaml


def from_file(path: Path) -> Imported:
    """Read a recipe of sparkrun's or of srt-slurm's.

    Raises:
        RecipeError: it is neither, or cannot be carried over.
    """
    data, _ = read_yaml(read_text(path), str(path))
    read = srtslurm.from_data if srtslurm.is_one(data) else sparkrun.from_data
    return read(data, str(path))
