"""`overspan join`."""

from __future__ import annotations

import click

from overspan.cli.options import INVENTORY, MODEL
from overspan.cli.output import document, interruptible, say
from overspan.cli.up import follow
from overspan.runs.planning import Wanted
from overspan.runs.status import status
from overspan.runs.up import join as start


@click.command()
@click.argument("head")
@click.argument("recipe", type=MODEL)
@click.option("--on", "inventory", type=INVENTORY, required=True, help="Machines: the head's inventory.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field, as on the head.")
@click.option("--name", help="Name of the run on this host. Default: the recipe's.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's status as JSON when it is verified.")
def join(  # noqa: PLR0917 - click gives them by name
    head: str, recipe: str, inventory: str, settings: tuple[str, ...], name: str | None, as_json: bool
) -> None:
    """Start this host's ranks of RECIPE. On HEAD, `overspan up --join-later` waits for them.

    HEAD is the head's name in INVENTORY, or its address. Both hosts make the same plan from the same files. If the
    plans differ, the difference is shown and nothing is started. The ranks here end with the head's run.
    """
    interruptible()
    run = start(head, Wanted(recipe, inventory, settings, name, part="joiner"), say, follow)
    now = status(run)
    if as_json:
        document(now)
        return
    names = ", ".join(each.process for each in now.processes)
    click.echo(f"{now.run}: {names} serve with {head}")
    say(f"next: overspan status {now.name}; also: logs and stop")
