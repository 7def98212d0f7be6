"""`overspan detect`: what the machines are, as an inventory to read and edit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from overspan.cli.options import PATH
from overspan.cli.output import show_error
from overspan.schema.errors import HostUnreachable


@click.command()
@click.option("--hosts", metavar="A,B,C", help="Hosts to ask over SSH: [user@]host[:port]. Default: this machine.")
@click.option("--user", help="Account on the hosts, where --hosts names none.")
@click.option("--identity", type=click.Path(dir_okay=False), help="Private key for the hosts.")
@click.option("--known-hosts", type=click.Path(dir_okay=False), help="Trust only the host keys in this file.")
@click.option("--ssh-config", type=click.Path(dir_okay=False, exists=True), help="ssh configuration file.")
@click.option(
    "--save",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the output of every command in this folder too.",
)
@click.option("--replay", type=PATH, help="Use the outputs that --save kept. No machine is asked.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def detect(  # noqa: PLR0917 - click gives them by name
    hosts: str | None,
    user: str | None,
    identity: str | None,
    known_hosts: str | None,
    ssh_config: str | None,
    save: Path | None,
    replay: Path | None,
    as_json: bool,
) -> int:
    """Print an inventory of this machine or of the named hosts. Each choice in it says why it was made.

    Edit any value (docs/inventory.md explains each), then give the file to --on. Exit code 4: a host did not
    answer. The other hosts are printed all the same.
    """
    from overspan.inventory.captured import as_yaml, live, replayed
    from overspan.schema.inventory import Ssh
    from overspan.schema.yamlio import make

    if replay is not None and (hosts or save):
        raise click.UsageError("--replay cannot be used with --hosts or --save")
    files = {"identity_file": identity, "known_hosts": known_hosts, "config_file": ssh_config}
    defaults = make(Ssh, {"address": "default", "user": user, **files}, "the options of detect")
    if hosts and sys.stderr.isatty():
        click.echo(f"asking {hosts.replace(',', ', ')} ...", err=True)
    inventory = live(hosts, defaults, save) if replay is None else replayed(replay)
    document = json.dumps(inventory.model_dump(mode="json"), indent=1) + "\n" if as_json else as_yaml(inventory)
    click.echo(document, nl=False)
    for warning in inventory.warnings:
        click.echo(f"warning: {warning}", err=True)
    for gone in inventory.unreachable:
        show_error(gone)
    return HostUnreachable.exit_code if inventory.unreachable else 0
