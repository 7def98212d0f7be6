"""`overspan sweep`."""

from __future__ import annotations

import click

from overspan.cli.output import document, say, table
from overspan.runs.sweeps import matrix_of
from overspan.schema.point import Point
from overspan.sweep.only import chosen


@click.command()
@click.argument("sweep")
@click.option(
    "--on", "inventory", metavar="INVENTORY", help="Machines: a file, or one that ships. Default: the sweep's."
)
@click.option("--only", metavar="FILTER", help="Some points: patterns and tests, such as 'tp4*,conc<=64'.")
@click.option("--dry-run", is_flag=True, help="Print every point, its GPUs, commands and estimate; start nothing.")
@click.option("--json", "as_json", is_flag=True)
def sweep(sweep: str, inventory: str | None, only: str | None, dry_run: bool, as_json: bool) -> None:
    """Measure every point of SWEEP, a name that ships or a YAML file; what is measured already is not run again."""
    matrix = matrix_of(sweep, inventory, to_start=not dry_run)
    points = chosen(matrix.points, only)
    if as_json:
        document({"sweep": matrix.sweep.name, "inventory": matrix.inventory.name, "points": _plain(points)})
        return
    _print(points)


def _plain(points: list[Point]) -> list[dict[str, object]]:
    return [point.model_dump(mode="json") for point in points]


def _print(points: list[Point]) -> None:
    header = ["point", "users", "nodes", "GPUs", "reserved", "TPOT ms", "TTFT ms", "out tok/s", "requests"]
    click.echo(table(header, [_row(point) for point in points]))
    shown: set[str] = set()
    for point in points:
        if point.deployment in shown:
            continue
        shown.add(point.deployment)
        click.echo(f"\n# {point.deployment}: {point.topology} of {point.model}")
        for each in point.commands:
            click.echo(f"# {each.process} on {each.host}\n{each.command}")
    for point in points:
        for note in point.notes:
            say(f"note: {point.id}: {note}")
    say(f"{len(points)} points, {len(shown)} deployments")


def _row(point: Point) -> list[str]:
    seen = point.estimate
    numbers = [f"{seen[name]:.1f}" if name in seen else "-" for name in ("tpot_ms", "ttft_ms", "output_tokens_per_s")]
    counts = [point.concurrency, point.nodes, point.gpus_used, point.gpus_reserved]
    return [point.id, *map(str, counts), *numbers, str(point.requests)]
