"""`overspan recipe`: what ships, one of them whole, and recipes of other tools."""

from __future__ import annotations

from pathlib import Path

import click

from overspan.cli.options import AS_JSON, FILE, MODEL, PATH
from overspan.cli.output import document, say, table
from overspan.schema.errors import InputError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def recipe() -> None:
    """List and show recipes. Import recipes of sparkrun and srt-slurm."""


@recipe.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the recipes that ship."""
    from overspan.catalog import recipes

    found = [recipes.find(name) for name in recipes.names()]
    if as_json:
        document(found)
        return
    rows = [[each.name, each.layout.label, ", ".join(each.variants) or "-", each.description] for each in found]
    click.echo(table(["recipe", "layout", "variants", "what it is"], rows, free=(3,)))


@recipe.command(short_help="Print a recipe.")
@click.argument("name", type=MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def show(name: str, as_json: bool) -> None:
    """Print a recipe: one that ships, a file, or the one that is made for a model id."""
    from overspan.catalog import recipes
    from overspan.schema.yamlio import dump

    found = recipes.find(name)
    if as_json:
        document(found)
    else:
        click.echo(dump(found), nl=False)


@recipe.command("import", short_help="Import a recipe of sparkrun (version 2) or srt-slurm.")
@click.argument("file", type=PATH)
@click.option("--out", type=FILE, help="File to write. Default: standard output.")
@click.option("--json", "as_json", is_flag=True, help="Print the recipe and the warnings as one document.")
def import_(file: Path, out: Path | None, as_json: bool) -> None:
    """Turn a recipe of sparkrun (version 2) or srt-slurm into one of Overspan.

    What cannot be carried over is listed on stderr.
    """
    from overspan.catalog import imported
    from overspan.schema.yamlio import dump
    from overspan.store.files import write_out

    if out is not None and out.is_file():
        raise InputError(f"{out} exists already", next="name another file with --out, or remove it")
    found = imported.from_file(file)
    if out is not None:
        write_out(out, dump(found.recipe))
        say(f"wrote {out}; next: overspan plan {out} --on INVENTORY")
    if as_json:
        document({"recipe": found.recipe.model_dump(mode="json"), "warnings": found.warnings})
    elif out is None:
        click.echo(dump(found.recipe), nl=False)
    for warning in found.warnings:
        say(f"warning: {warning}")
