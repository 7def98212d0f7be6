"""`overspan logs`."""

from __future__ import annotations

import contextlib

import click

from overspan.cli.options import RUN
from overspan.cli.output import say
from overspan.runs.logs import follow, last, polls, shown
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("-f", "--follow", "on_and_on", is_flag=True, help="Print new lines as they come, until the run ends.")
@click.option("--process", "-p", help="Print only the log of this process.")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=200, help="Lines of each log.")
@click.option("--all", "every", is_flag=True, help="Print also what Overspan's own polls of the engine wrote there.")
def logs(run: str | None, on_and_on: bool, process: str | None, lines: int, every: bool) -> None:
    """Print the logs of RUN (default: the active run)."""
    source = (follow if on_and_on else last)(open_run(run), process, lines, shown if every else polls(say))
    with contextlib.suppress(KeyboardInterrupt):
        for line in source:
            click.echo(line)
