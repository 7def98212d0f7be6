"""`overspan logs`."""

from __future__ import annotations

import contextlib

import click

from overspan.cli.options import RUN
from overspan.runs.logs import follow, last
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("-f", "--follow", "on_and_on", is_flag=True, help="Print new lines as they come, until the run ends.")
@click.option("--process", "-p", help="Print only the log of this process.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=200, help="Lines of each log.")
def logs(run: str | None, on_and_on: bool, process: str | None, lines: int) -> None:
    """Print the logs of RUN (default: the active run)."""
    folder = open_run(run)
    source = follow(folder, process, lines) if on_and_on else last(folder, process, lines)
    with contextlib.suppress(KeyboardInterrupt):
        for line in source:
            click.echo(line)
