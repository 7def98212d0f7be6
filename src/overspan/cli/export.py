"""`overspan export`."""

from __future__ import annotations

from pathlib import Path

import click

from overspan.cli.options import NEW_FILE, Names
from overspan.schema.errors import InputError
from overspan.schema.units import count
from overspan.store.files import write_out
from overspan.sweep.folder import open_sweep
from overspan.sweep.results import as_csv, write_parquet


@click.command()
@click.argument("sweep", type=Names("sweeps-here"))
@click.option("--out", required=True, type=NEW_FILE, help="A .csv or .parquet file.")
def export(sweep: str, out: Path) -> None:
    """Write the results of SWEEP as a table with one row for each point. The ending of --out chooses the format."""
    results = open_sweep(sweep).measured().ended
    if out.suffix == ".csv":
        write_out(out, as_csv(results))
    elif out.suffix == ".parquet":
        write_parquet(results, out)
    else:
        raise InputError(f"--out {out}: a table ends in .csv or .parquet")
    click.echo(f"{count(len(results), 'point')}: {out}")
