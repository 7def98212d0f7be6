"""`overspan ledger`."""

from __future__ import annotations

from pathlib import Path

import click

from overspan.cli.output import document, say
from overspan.sweep.ledger import added, at_revision, named, problems, read_book
from overspan.sweep.matrix import points_of_file

_BASE = click.option("--base", required=True, metavar="REF", help="The git revision that came before.")
_FOLDER = click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(),
                       help="With ledger.yaml, sweeps/ and results/. Default: here.")  # fmt: skip
_ON = click.option("--on", "inventory", metavar="INVENTORY", help="Machines, where a sweep names none of its own.")


@click.group()
def ledger() -> None:
    """A changelog of sweeps that gates: added entries decide what runs, history stays."""


@ledger.command()
@_BASE
@_FOLDER
@_ON
@click.option("--json", "as_json", is_flag=True)
def check(base: str, folder: Path, inventory: str | None, as_json: bool) -> int:
    """Fail when history changed, a change is named by no entry, or a result has no recipe that matches."""
    points_of = points_of_file(inventory)
    then, now = at_revision(folder, base, points_of), read_book(folder, points_of)
    found = problems(then, now, folder)
    if as_json:
        document({"ok": not found, "problems": found, "added": [entry.what for entry in added(then, now)]})
    for problem in [] if as_json else found:
        click.echo(problem)
    say(f"{len(found)} problems" if found else f"the ledger holds: {len(added(then, now))} entries added")
    return 1 if found else 0


@ledger.command()
@_BASE
@_FOLDER
@_ON
@click.option("--json", "as_json", is_flag=True)
def points(base: str, folder: Path, inventory: str | None, as_json: bool) -> None:
    """Print the points that the added entries name: those that are to run."""
    points_of = points_of_file(inventory)
    now = read_book(folder, points_of)
    names = named(added(at_revision(folder, base, points_of), now), now)
    if as_json:
        document(names)
    else:
        click.echo("\n".join(names)) if names else say("no entry was added: nothing is to run")
