"""`overspan sweep`."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

import click

from overspan.cli.options import AS_JSON, INVENTORY, Names
from overspan.cli.output import Ticker, document, interruptible, say, table
from overspan.schema.point import Point, PointRole
from overspan.schema.units import count
from overspan.sweep.expand import SweepMatrix, matrix_of
from overspan.sweep.folder import MeasuredSweep, SweepFolder, newest
from overspan.sweep.only import chosen


@click.command()
@click.argument("sweep", type=Names("sweeps"))
@click.option(
    "--on",
    "inventory",
    type=INVENTORY,
    help="Machines: a file, or a name that ships. Default: those of the sweep.",
)
@click.option("--only", metavar="FILTER", help="Measure only some points, such as 'tp4*,conc<=64'.")
@click.option("--dry-run", is_flag=True, help="Print every point with its GPUs, commands and estimate. Start nothing.")
@click.option("--fresh", is_flag=True, help="Measure all points again, in a new folder.")
@click.option("--retry-failed", is_flag=True, help="Measure again the points that failed.")
@AS_JSON
def sweep(  # noqa: PLR0917 - click gives them by name
    sweep: str, inventory: str | None, only: str | None, dry_run: bool, fresh: bool, retry_failed: bool, as_json: bool
) -> int:
    """Measure every point of SWEEP, which is a YAML file or a name that ships.

    One deployment runs at a time, and all its loads are measured on it. After Ctrl-C or a crash the same command goes
    on where it stopped. Exit code 1: a point failed or is missing.
    """
    matrix = matrix_of(sweep, inventory, to_start=not dry_run, only=only)
    points = chosen(matrix.points, only)
    if dry_run:
        _show_plan(matrix, points, as_json=as_json)
        return 0
    again = shlex.join(["overspan", "sweep", sweep, *(["--on", inventory] if inventory else [])])
    return _measure(matrix, points, fresh=fresh, retry_failed=retry_failed, as_json=as_json, again=again)


def _measure(
    matrix: SweepMatrix, points: list[Point], *, fresh: bool, retry_failed: bool, as_json: bool, again: str
) -> int:
    from overspan.sweep.runner import Listeners, require_startable, run_sweep

    require_startable(matrix, points)
    interruptible()
    folder = (None if fresh else newest(matrix.sweep.name, matrix.points)) or SweepFolder.create(matrix.sweep)
    ticker = Ticker()

    def progress(point: Point, ended: int, failed: int, in_flight: int) -> None:
        ticker.show(f"{point.id}: {ended} of {point.requests} requests ended, {in_flight} in flight, {failed} failed")

    def tell(text: str) -> None:
        ticker.clear()
        say(text)

    folder.open(matrix.sweep, matrix.points)
    try:
        run_sweep(matrix, points, folder, Listeners(tell, progress), retry_failed=retry_failed)
    except KeyboardInterrupt:
        ticker.clear()
        say(f"interrupted; to continue: {again}")
        return 130
    finally:
        ticker.clear()
        folder.close()
    return _show_end(matrix, points, folder, as_json=as_json)


def _show_end(matrix: SweepMatrix, points: list[Point], folder: SweepFolder, *, as_json: bool) -> int:
    """Every planned point: ok, failed or missing."""
    measured = folder.measured(matrix.points)
    counts = Counter(measured.state(point) for point in matrix.points)
    if as_json:
        rows = [_end_document(point, measured) for point in matrix.points]
        document({"sweep": folder.id, "folder": str(folder.path), "counts": dict(counts), "points": rows})
    else:
        click.echo(table(["point", "state", "users", "TTFT ms", "TPOT ms", "out tok/s", "reason"],
                         [_end_row(point, measured) for point in matrix.points], free=(6,)))  # fmt: skip
        click.echo(f"{counts['ok']} ok, {counts['failed']} failed, {counts['missing']} missing: {folder.path}")
        say(f"next: overspan report {folder.id}; as a table: overspan export {folder.id} --out points.csv")
    return 0 if all(measured.state(point) == "ok" for point in points) else 1


def _end_document(point: Point, measured: MeasuredSweep) -> dict[str, Any]:
    result = measured.results.get(point.id)
    reason = result.reason if result else "not measured"
    derived = result.derived.model_dump(mode="json") if result and result.derived else {}
    return {"id": point.id, "state": measured.state(point), "reason": reason, **derived}


def _end_row(point: Point, measured: MeasuredSweep) -> list[str]:
    result = measured.results.get(point.id)
    seen = result.measured if result else None
    numbers = [seen.ttft_ms.p50, seen.tpot_ms.p50, seen.output_tokens_per_s] if seen else [None, None, None]
    shown = ["-" if value is None else f"{value:.1f}" for value in numbers]
    reason = next(iter(result.reason.splitlines()), "") if result else "not measured"
    return [point.id, measured.state(point), str(point.concurrency), *shown, reason]


def _show_plan(matrix: SweepMatrix, points: list[Point], *, as_json: bool) -> None:
    if as_json:
        plain = [point.model_dump(mode="json") for point in points]
        document({"sweep": matrix.sweep.name, "inventory": matrix.inventory.name, "points": plain})
        return
    header = ["point", "users", "nodes", "GPUs", "reserved", "TPOT ms", "TTFT ms", "out tok/s", "requests"]
    click.echo(table(header, [_row(point) for point in points]))
    shown: set[str] = set()
    for point in points:
        if point.deployment in shown:
            continue
        shown.add(point.deployment)
        click.echo(f"\n# {point.deployment}: {point.topology} of {point.model}")
        for name, role in point.roles.items():
            click.echo(f"# {name}: {_role(role)}")
        for each in point.commands:
            click.echo(f"# {each.process} on {each.host}\n{each.command}")
    for point in points:
        for note in point.notes:
            say(f"note: {point.id}: {note}")
    say(f"{count(len(points), 'point')}, {count(len(shown), 'deployment')}")


def _role(role: PointRole) -> str:
    """Where its workers are, and the environment that all of them have."""
    nodes = ", ".join(role.nodes)
    given = f"; environment {shlex.join(f'{name}={value}' for name, value in role.env.items())}" if role.env else ""
    return f"{role.workers} x {role.layout}, {count(role.gpus, 'GPU')} on {nodes}{given}"


def _row(point: Point) -> list[str]:
    seen = point.estimate
    known = (seen.tpot_ms, seen.ttft_ms, seen.output_tokens_per_s)
    numbers = ["-" if value is None else f"{value:.1f}" for value in known]
    counts = [point.concurrency, point.nodes, point.gpus_used, point.gpus_reserved]
    return [point.id, *map(str, counts), *numbers, str(point.requests)]
