"""`overspan stop`."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON, RUN, Finite
from overspan.cli.output import document
from overspan.runs.stop import stop as stop_run
from overspan.store.run_folder import open_run


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--grace", "grace_s", type=Finite(min=0), help="Seconds that answers in progress may still take.")
@AS_JSON
def stop(run: str | None, grace_s: float | None, as_json: bool) -> None:
    """Stop RUN (default: the active run).

    Answers in progress end first, then every process. A second `stop` does no harm.
    """
    folder = open_run(run)
    was_running = stop_run(folder, grace_s)
    if as_json:
        document({"run": folder.id, "state": folder.state(), "was_running": was_running})
    else:
        click.echo(f"{folder.id}: {folder.last_state().message if was_running else 'had ended before'}")
