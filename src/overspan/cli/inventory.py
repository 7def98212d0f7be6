"""`overspan inventory`: the machines that ship, one to start from, and everything that is wrong with a file."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON, INVENTORY
from overspan.cli.output import document, say, show_error, table
from overspan.schema.units import count


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def inventory() -> None:
    """List, show and check inventories: the machines that --on names."""


@inventory.command("list")
@AS_JSON
def list_(as_json: bool) -> None:
    """List the inventories that ship."""
    from overspan.catalog import inventories

    found = [(name, inventories.find(name)) for name in inventories.names()]
    if as_json:
        document([{"inventory": name, **each.model_dump(mode="json")} for name, each in found])
        return
    rows = []
    for name, each in found:
        kinds = {gpu.kind: sum(len(host.gpus) for host in each.hosts) for host in each.hosts for gpu in host.gpus}
        gpus = ", ".join(f"{number} x {kind}" for kind, number in kinds.items()) or "-"
        rows.append([name, each.launcher, str(len(each.hosts)), gpus, each.description])
    click.echo(table(["inventory", "launcher", "hosts", "GPUs", "what it is"], rows, free=(4,)))


@inventory.command(short_help="Print an inventory, with its remarks.")
@click.argument("name", type=INVENTORY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML, every field with its value.")
def show(name: str, as_json: bool) -> None:
    """Print an inventory: one that ships, or a file. The output can be edited and given to --on."""
    from overspan.catalog import inventories

    if as_json:
        document(inventories.find(name))
    else:
        click.echo(inventories.text_of(name).rstrip("\n"))


@inventory.command(short_help="Tell everything that is wrong with a file at once.")
@click.argument("file", type=INVENTORY)
@AS_JSON
def check(file: str, as_json: bool) -> int:
    """Tell everything that is wrong with FILE at once: each with its line and its field. No host is asked.

    Exit code: 0 nothing is wrong, 2 something is.
    """
    from overspan.catalog import inventories
    from overspan.schema.errors import InputError

    wrong = inventories.problems(file)
    told = [] if wrong else inventories.remarks(inventories.find(file))
    if as_json:
        errors = [{**each.as_dict(), "line": each.at and each.at[0], "field": each.field} for each in wrong]
        document({"file": file, "ok": not wrong, "errors": errors, "notes": told})
        return InputError.exit_code if wrong else 0
    for each in wrong:
        show_error(each)
    for note in told:
        say(f"note: {note}")
    if wrong:
        say(f"{count(len(wrong), 'error')} in {file}")
        say("next: docs/inventory.md has every field; overspan inventory example prints one to start from")
        return InputError.exit_code
    click.echo(f"{file}: nothing is wrong")
    return 0


@inventory.command(short_help="Print an inventory to start from, with remarks.")
@click.argument("kind", type=click.Choice(["local", "docker", "ssh", "slurm"]), default="ssh")
def example(kind: str) -> None:
    """Print an inventory to start from, with remarks.

    \b
    local   this machine
    docker  containers on this machine
    ssh     containers on two hosts, the second of them over SSH
    slurm   nodes that Slurm chooses
    """
    from overspan.catalog import inventories

    click.echo(inventories.example(kind), nl=False)
