"""`overspan simulate`: a fleet on paper."""

from __future__ import annotations

import json

import click

from overspan.cli.asked import Finite


@click.command()
@click.argument("model")
@click.option("--gpu", required=True, metavar="KIND", help="Kind of GPU, or a hardware YAML.")
@click.option("--fleet", type=click.IntRange(1, 100_000), required=True, help="GPUs in all.")
@click.option("--topology", metavar="NOTATION", help="One unit: TEP8, or 1P2D DEP4->TEP8. Default: the best of a host.")
@click.option("--isl", type=Finite(1), default=1024, show_default=True, help="Input tokens of a request.")
@click.option("--osl", type=Finite(1), default=1024, show_default=True, help="Output tokens of a request.")
@click.option("--rate", "rate_per_s", type=Finite(0, min_open=True), help="Requests a second of the fleet.")
@click.option("--slo", metavar="ttft=MS,tpot=MS", help="Limits; without --rate the highest rate that keeps them.")
@click.option("--share", type=Finite(0, 1, min_open=True), default=0.99, show_default=True,
              help="Of the requests that must keep the limits.")  # fmt: skip
@click.option("--price", type=Finite(0), help="Of one GPU for an hour, in any currency.")
@click.option(
    "--requests", type=click.IntRange(100, 5_000_000), help="To simulate. Default: four times those in flight."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a value of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def simulate(model: str, *, as_json: bool, **asked: object) -> None:
    """Simulate a fleet that serves MODEL: every request, from its arrival (a Poisson stream) to its last token.

    Times of prompts and steps are the planner's. Prints what share of the requests keeps the limits, latencies,
    how busy the fleet is and what a million tokens cost. Nothing is started.
    """
    from overspan.planner import scale

    found = scale.scale(scale.Asked.model_validate({"name": model, **asked}))
    click.echo(json.dumps(found, indent=1) if as_json else scale.as_text(found))
