"""`overspan simulate`: a fleet on paper."""

from __future__ import annotations

import json
from typing import Any

import click

from overspan.cli.options import AS_JSON, GPU, MODEL, POSITIVE, SET, Finite


@click.command()
@click.argument("model", type=MODEL)
@click.option("--gpu", type=GPU, required=True, help="Kind of GPU, or a hardware YAML.")
@click.option("--fleet", type=click.IntRange(1, 100_000), required=True, help="Number of GPUs.")
@click.option(
    "--topology", metavar="NOTATION", help="Layout of one unit: TEP8, or 1P2D DEP4->TEP8. Default: the best for a host."
)
@click.option("--isl", type=Finite(1), default=1024, help="Input tokens of a request.")
@click.option("--osl", type=Finite(1), default=1024, help="Output tokens of a request.")
@click.option("--rate", "rate_per_s", type=POSITIVE, help="Requests per second for the whole fleet.")
@click.option(
    "--slo",
    metavar="ttft=MS,tpot=MS",
    help="Latency limits. Without --rate, the highest rate that keeps them is found.",
)
@click.option("--share", type=Finite(0, 1, min_open=True), default=0.99,
              help="Share of the requests that must keep --slo.")  # fmt: skip
@click.option("--price", type=Finite(0), help="Price of one GPU for one hour, in any currency.")
@click.option(
    "--requests", type=click.IntRange(100, 5_000_000), help="Requests to simulate. Default: four times those in flight."
)
@click.option("--seed", type=int, default=0, help="Seed of the arrivals.")
@SET
@AS_JSON
def simulate(model: str, *, as_json: bool, **asked: Any) -> None:
    """Simulate a fleet that serves MODEL. Each request is followed from its arrival to its last token.

    Requests arrive as a Poisson process. The planner gives the times of prompts and steps. The result: the share of
    requests that keep the limits, latencies, the load of the fleet, and the price of a million tokens.
    """
    from overspan.planner import scale

    found = scale.scale(scale.FleetQuestion(model, **asked))
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else found.as_text())
