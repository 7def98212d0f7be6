"""`overspan list`."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON
from overspan.cli.output import document, table
from overspan.store.run_folder import summaries


@click.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the runs of this machine, newest first."""
    rows = summaries()
    if as_json:
        document(rows)
    elif rows:
        cells = [[row["run"], row["state"], (row["at"] or "-")[:19].replace("T", " "), row["message"]] for row in rows]
        click.echo(table(["run", "state", "since (UTC)", "what happened last"], cells, free=(3,)))
    else:
        click.echo("no runs yet; start one: overspan up smollm2-135m")
