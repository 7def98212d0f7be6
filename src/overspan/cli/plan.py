"""`overspan plan`."""

from __future__ import annotations

import click

from overspan.cli.output import document, table
from overspan.planner import answer
from overspan.runs.commands import commands_of
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec


@click.command()
@click.argument("recipe")
@click.option("--on", "inventory", metavar="INVENTORY", help="Machines: a file, or one that ships. Default: this one.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field or engine argument.")
@click.option("--show", type=click.Choice(["commands"]), help="Print what a person would paste, host by host.")
@click.option("--explain", is_flag=True, help="Rank the layouts that these machines can run, and say what binds.")
@click.option("--json", "as_json", is_flag=True)
def plan(  # noqa: PLR0917 - click gives them by name
    recipe: str, inventory: str | None, settings: tuple[str, ...], show: str | None, explain: bool, as_json: bool
) -> None:
    """Plan RECIPE on machines: offline, no connection, nothing started."""
    made = plan_of(Wanted(recipe, inventory, settings), to_start=False)
    processes = processes_of(made)
    if as_json:
        found = {**made.model_dump(mode="json"), "processes": [spec.model_dump(mode="json") for spec in processes]}
        if explain:
            found["explain"] = answer.answer(_question(recipe, inventory, settings))
        document(found)
    elif show == "commands":
        click.echo("\n\n".join(commands_of(spec) for spec in processes))
    else:
        _print(made, processes)
    if explain and not as_json:
        click.echo(answer.as_text(answer.answer(_question(recipe, inventory, settings))))


def _question(recipe: str, inventory: str | None, settings: tuple[str, ...]) -> answer.Question:
    return answer.Question(name=recipe, settings=settings, inventory=inventory or "laptop")


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
