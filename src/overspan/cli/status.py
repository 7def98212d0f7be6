"""`overspan status`."""

from __future__ import annotations

import click

from overspan.cli.output import document, duration, gib, table
from overspan.runs.folder import open_run
from overspan.runs.status import status as status_of
from overspan.schema.errors import HostUnreachable, NotReady


@click.command()
@click.argument("run", required=False)
@click.option("--json", "as_json", is_flag=True)
def status(run: str | None, as_json: bool) -> int:
    """Show how RUN is (default: the active one). Exit code: 0 ready, 3 not ready, 4 a host does not answer."""
    now = status_of(open_run(run))
    code = HostUnreachable.exit_code if now.unreachable else 0 if now.ready else NotReady.exit_code
    if as_json:
        document(now)
        return code
    click.echo(f"{now.run}: {now.state} for {duration(now.since_s)}: {now.message}")
    if now.endpoint:
        click.echo(f"endpoint {now.endpoint}, model {now.model}")
    rows = [
        [each.process, each.host, each.health, str(each.pid or "-"), gib(each.memory_bytes), duration(each.uptime_s)]
        for each in now.processes
    ]
    if rows:
        click.echo(table(["process", "host", "state", "pid", "memory", "up"], rows))
    for host, why in now.unreachable.items():
        click.echo(f"{host} does not answer: {why}")
    return code
