"""`overspan stop`."""

from __future__ import annotations

import click

from overspan.cli.asked import Finite
from overspan.cli.output import document
from overspan.runs.stop import stop as stop_run
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False)
@click.option("--grace", "grace_s", type=Finite(min=0), help="Seconds for streams in flight.")
@click.option("--json", "as_json", is_flag=True)
def stop(run: str | None, grace_s: float | None, as_json: bool) -> None:
    """Stop RUN (default: the active one): streams in flight end, then every process does. Twice is fine."""
    folder = open_run(run)
    was_running = stop_run(folder, grace_s)
    if as_json:
        document({"run": folder.id, "state": folder.state(), "was_running": was_running})
    else:
        click.echo(f"{folder.id}: {folder.last_state().message if was_running else 'had ended before'}")
