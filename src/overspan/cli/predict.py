"""`overspan predict`: what layouts would give, and why."""

from __future__ import annotations

import json
from typing import Any

import click

from overspan.cli.asked import HARDWARE, LOAD, MACHINES, options, question_of
from overspan.cli.output import say


@click.command()
@click.argument("model", required=False)
@click.option("--model", "named", metavar="DIR|ID", help="The same as MODEL.")
@click.option("--on", "inventory", metavar="INVENTORY", help="An inventory that ships, or a file of `overspan detect`.")
@click.option("--layout", help="One layout, such as tep2. Default: all, ranked.")
@click.option("--tp", type=click.IntRange(1), help="The same in numbers: tensor-parallel ranks,")
@click.option("--pp", type=click.IntRange(1), help="pipeline stages,")
@click.option("--dp", type=click.IntRange(1), help="data-parallel groups,")
@click.option("--ep", type=click.IntRange(1), help="ranks that whole experts are spread over: 1, or tp*dp.")
@options(LOAD, MACHINES)
@HARDWARE
@click.option("--disaggregated", is_flag=True, help="Prefill and decode on workers of their own: rank xPyD.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a value of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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
    """Predict time to first token and time per token of MODEL: a recipe, a model whose sizes ship, or its folder.

    Nothing is started and no host is asked. Times are milliseconds; intervals hold 80 %.
    """
    from overspan.planner import answer
    from overspan.provision.sizes import bring_sizes
    from overspan.schema.errors import InputError
    from overspan.schema.layout import one_layout

    if (model is None) == (named is None):
        raise InputError("name one model", next="for example: overspan predict minimax-m2.5-nvfp4 --gpu gb10 --tp 2")
    why = bring_sizes(model or named or "")
    if why:
        say(f"note: {why}")
    degrees = {"tp": tp, "pp": pp, "dp": dp, "ep": ep}
    question = question_of(model or named or "", layout=one_layout(layout, degrees), **asked)
    found = answer.answer(question)
    click.echo(json.dumps(found, indent=1) if as_json else answer.as_text(found))
