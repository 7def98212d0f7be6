"""`overspan ledger`."""

from __future__ import annotations

from pathlib import Path

import click

from overspan.cli.options import AS_JSON, INVENTORY
from overspan.cli.output import document, say
from overspan.schema.units import count
from overspan.sweep.ledger import added, at_revision, named, problems, read_state

_BASE = click.option("--base", required=True, metavar="REF", help="Git revision to compare with, such as main.")
_FOLDER = click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(),
                       help="Folder with ledger.yaml, sweeps/ and results/.")  # fmt: skip
_ON = click.option("--on", "inventory", type=INVENTORY, help="Machines, for a sweep that names none.")


@click.group()
def ledger() -> None:
    """Keep sweeps under version control. Added entries decide what runs. CI fails where a result has no recipe."""


@ledger.command(short_help="Check the ledger against a git revision.")
@_BASE
@_FOLDER
@_ON
@AS_JSON
def check(base: str, folder: Path, inventory: str | None, as_json: bool) -> int:
    """Fail when an old entry changed, a change has no entry, or a result has no recipe that matches it."""
    then, now = at_revision(folder, base, inventory), read_state(folder, inventory)
    found = problems(then, now, folder)
    if as_json:
        document({"ok": not found, "problems": found, "added": [entry.what for entry in added(then, now)]})
    for problem in [] if as_json else found:
        click.echo(problem)
    say(count(len(found), "problem") if found else f"the ledger is in order: {len(added(then, now))} entries added")
    return 1 if found else 0


@ledger.command()
@_BASE
@_FOLDER
@_ON
@AS_JSON
def points(base: str, folder: Path, inventory: str | None, as_json: bool) -> None:
    """Print the points that the added entries name. These are to be measured."""
    now = read_state(folder, inventory)
    names = named(added(at_revision(folder, base, inventory), now), now)
    if as_json:
        document(names)
    else:
        click.echo("\n".join(names)) if names else say("no entry was added, so nothing needs to be measured")
