"""`overspan up`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from overspan.cli.options import HARDWARE, LOAD, MODEL, ON, SET, WEIGHTS, demand_of, options
from overspan.cli.output import Ticker, document, interruptible, say
from overspan.engines import registry
from overspan.runs.join.ranks import Part
from overspan.runs.planning import Wanted, Weights
from overspan.runs.progress import Starts, newest_line
from overspan.runs.status import status
from overspan.runs.up import up as start
from overspan.schema.errors import InputError
from overspan.schema.event import Event
from overspan.store.run_folder import RunFolder

_QUIET_S = 30.0
"""After so long without a line a person without a terminal wonders whether it lives."""


@click.command()
@click.argument("recipe", type=MODEL)
@ON
@SET
@click.option("--name", help="Name of the run. Default: the recipe's.")
@click.option("--join-later", is_flag=True, help="Start only this host's ranks. The others join with `overspan join`.")
@options(LOAD)
@HARDWARE
@WEIGHTS
@click.option("--json", "as_json", is_flag=True, help="Print the run's status as JSON when it is verified.")
def up(
    recipe: str,
    *,
    inventory: str | None,
    settings: tuple[str, ...],
    name: str | None,
    slo: str | None,
    hardware: str | None,
    weights: Weights,
    join_later: bool,
    as_json: bool,
    **load: Any,
) -> None:
    """Start RECIPE, and wait until it gives a real token and a known answer.

    RECIPE is a name that ships, a YAML file (also a run.lock.yaml), a Hugging Face id or a folder with a model. If it
    states no layout, the best one for the load is started: the one that `overspan plan` shows. The run goes on
    when this command ends. Ctrl-C before the run is verified stops it.
    Exit code: 1 it died, 3 somebody else stopped it.
    """
    interruptible()
    if join_later and inventory is None:
        raise InputError("--join-later needs several hosts, and --on is missing", next="give --on INVENTORY")
    part: Part | None = "head" if join_later else None
    wanted = Wanted(recipe, inventory, settings, name, demand_of(**load), slo, hardware, part, weights)
    run = start(wanted, say, follow)
    now = status(run)
    if as_json:
        document(now)
        return
    click.echo(f"{now.run} answers at {now.endpoint} as {now.model}")
    say(f"next: overspan chat {now.name}; also: bench, verify, status, logs and stop")


def follow(run: RunFolder, events: Iterator[Event | None]) -> None:
    """Show a run's events as they come."""
    ticker, waiting, told = Ticker(), "launching", time.monotonic()
    starts = Starts(run.logs, registry.find(run.plan().engine.name).phases)
    for event in events:
        if event is None:
            if not (ticker.live or time.monotonic() - told > _QUIET_S):
                continue
            seen = starts.look() if waiting == "launching" else None
            text = f"{waiting}: {seen.text if seen else newest_line(run.logs)}"
            if ticker.live:
                ticker.show(text)
                continue
            say(f"{datetime.now().astimezone():%H:%M:%S}  {'':9}  still {text}")
        else:
            ticker.clear()
            if event.state != "failed":
                say(f"{event.at.astimezone():%H:%M:%S}  {event.state or '':9}  {event.message}")
            waiting = event.state or waiting
        told = time.monotonic()
    ticker.clear()
