"""`overspan plan`."""

from __future__ import annotations

import click

from overspan.cli.output import document, table
from overspan.runs.commands import commands_of
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec


@click.command()
@click.argument("recipe")
@click.option("--on", "inventory", metavar="INVENTORY", help="Machines: a file, or one that ships. Default: this one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field or engine argument.")
@click.option("--show", type=click.Choice(["commands"]), help="Print what a person would paste, host by host.")
@click.option("--json", "as_json", is_flag=True)
def plan(recipe: str, inventory: str | None, settings: tuple[str, ...], show: str | None, as_json: bool) -> None:
    """Plan RECIPE on machines: offline, no connection, nothing started."""
    made = plan_of(Wanted(recipe, inventory, settings), to_start=False)
    processes = processes_of(made)
    if as_json:
        document({**made.model_dump(mode="json"), "processes": [spec.model_dump(mode="json") for spec in processes]})
    elif show == "commands":
        click.echo("\n\n".join(commands_of(spec) for spec in processes))
    else:
        _print(made, processes)


def _print(made: Plan, processes: list[ProcessSpec]) -> None:
    engine = made.engine
    click.echo(f"{made.recipe.name}: {made.layout.label} of {made.recipe.model} on {made.inventory.name}")
    click.echo(f"engine {engine.name} {engine.version}{f', image {engine.image}' if engine.image else ''}")
    click.echo(f"endpoint {made.endpoint.base_url} as {made.endpoint.model}")
    rows = [
        [each.process, each.host, ",".join(map(str, each.ranks)), ",".join(map(str, each.gpus)) or "-"]
        for each in made.placements
    ]
    click.echo(table(["process", "host", "ranks", "GPUs"], rows))
    for note in made.notes:
        click.echo(f"note: {note}")
    click.echo(f"{len(processes)} processes; their exact commands: --show commands")
