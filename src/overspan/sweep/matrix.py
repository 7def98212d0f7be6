"""A sweep on machines: its matrix, with the engines that are at hand."""

from __future__ import annotations

from pathlib import Path

from overspan.catalog import inventories
from overspan.inventory import here
from overspan.runs.planning import engine_of, processes_of
from overspan.schema.inventory import Inventory
from overspan.schema.plan import EngineChoice
from overspan.schema.recipe import Recipe
from overspan.sweep import read
from overspan.sweep.expand import Matrix, Tools, expand
from overspan.sweep.ledger import PointsOf


def matrix_of(name: str, inventory: str | None, *, to_start: bool, only: str | None = None) -> Matrix:
    """Every point of a sweep that ships or of a file, on an inventory, on the sweep's own, or on this machine.

    Args:
        only: a filter; what it leaves out may be such as cannot run.

    Raises:
        InputError: the sweep or the inventory is wrong.
        PlanRefused: points that cannot run; every one with its reasons.
    """
    sweep = read.find(name)
    chosen = inventory or sweep.inventory
    machines = inventories.find(chosen) if chosen else here.this_machine()

    def engine(recipe: Recipe, machines: Inventory) -> EngineChoice:
        return engine_of(recipe, machines, to_start=to_start)

    return expand(sweep, machines, Tools(engine, processes_of), only)


def points_of_file(inventory: str | None) -> PointsOf:
    """Reads the points of a sweep's file, for the ledger: on the machines that the sweep names, else on these."""
    return lambda file: matrix_of(str(file), _own(file) or inventory, to_start=False).points


def _own(file: Path) -> str | None:
    return read.find(str(file)).inventory
