"""`overspan predict`: what layouts would give, and why."""

from __future__ import annotations

import json
from typing import Any

import click

from overspan.cli.options import AS_JSON, COUNT, HARDWARE, INVENTORY, LOAD, MACHINES, MODEL, SET, options, question_of
from overspan.cli.output import say, table


@click.command()
@click.argument("model", required=False, type=MODEL)
@click.option("--model", "named", type=MODEL, metavar="DIR|ID", help="The model, as an option in place of MODEL.")
@click.option(
    "--on",
    "inventory",
    type=INVENTORY,
    metavar="INVENTORY",
    help="Machines: a file of `overspan detect`, or a name that ships.",
)
@click.option("--layout", help="One layout, such as tep2. Default: all, ranked.")
@click.option("--tp", type=COUNT, help="Tensor-parallel ranks; an alternative to --layout.")
@click.option("--pp", type=COUNT, help="Pipeline stages; an alternative to --layout.")
@click.option("--dp", type=COUNT, help="Data-parallel groups; an alternative to --layout.")
@click.option("--ep", type=COUNT, help="Ranks that share the experts: 1, or tp*dp.")
@options(LOAD, MACHINES)
@HARDWARE
@click.option("--disaggregated", is_flag=True, help="Rank separate prefill and decode workers (xPyD).")
@SET
@AS_JSON
def predict(
    model: str | None,
    named: str | None,
    layout: str | None,
    *,
    tp: int | None,
    pp: int | None,
    dp: int | None,
    ep: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Predict TTFT and TPOT of MODEL, which is a recipe, a model that ships, or a folder.

    Nothing is started, and no host is asked. Times are in milliseconds. Each comes with its 80 % interval.
    """
    from overspan.planner import answer
    from overspan.provision.sizes import bring_sizes
    from overspan.schema.errors import InputError
    from overspan.schema.layout import one_layout

    if (model is None) == (named is None):
        raise InputError(
            "one model is needed: MODEL or --model",
            next="for example: overspan predict minimax-m2.5-nvfp4 --gpu gb10 --tp 2",
        )
    why = bring_sizes(model or named or "")
    if why:
        say(f"note: {why}")
    degrees = {"tp": tp, "pp": pp, "dp": dp, "ep": ep}
    question = question_of(model or named or "", layout=one_layout(layout, degrees), **asked)
    found = answer.answer(question)
    click.echo(json.dumps(found.as_json(), indent=1) if as_json else answer.as_text(found, table))
