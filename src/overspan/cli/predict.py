"""`overspan predict`: what layouts would give, and why."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("model", required=False)
@click.option("--model", "named", metavar="DIR|ID", help="The same as MODEL.")
@click.option("--on", "inventory", metavar="INVENTORY", help="An inventory that ships, or a file of `overspan detect`.")
@click.option("--gpu", metavar="KIND", help="What if: machines of this kind in place of an inventory.")
@click.option("--nodes", type=click.IntRange(1, 10_000), help="With --gpu: hosts. Default: as many as needed.")
@click.option("--gpus", type=click.IntRange(1, 72), help="With --gpu: GPUs of each host. Default: the kind's own.")
@click.option("--layout", help="One layout, such as tep2. Default: all, ranked.")
@click.option("--tp", type=click.IntRange(1), help="The same in numbers: tensor-parallel ranks,")
@click.option("--pp", type=click.IntRange(1), help="pipeline stages,")
@click.option("--dp", type=click.IntRange(1), help="data-parallel groups,")
@click.option("--ep", type=click.IntRange(1), help="ranks that whole experts are spread over: 1, or tp*dp.")
@click.option("--isl", type=click.FloatRange(1), default=1024, show_default=True, help="Input tokens of a request.")
@click.option("--osl", type=click.FloatRange(1), default=1024, show_default=True, help="Output tokens of a request.")
@click.option("--concurrency", type=click.IntRange(1), default=1, show_default=True, help="Users at a time.")
@click.option("--slo", metavar="ttft=MS,tpot=MS", help="Limits; layouts that keep them come first.")
@click.option("--how-many", is_flag=True, help="With --gpu and --slo: the fewest GPUs that keep the limits.")
@click.option("--disaggregated", is_flag=True, help="Prefill and decode on workers of their own: rank xPyD.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Layouts to show.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a value of the recipe.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def predict(  # noqa: PLR0917 - click gives them by name
    model: str | None,
    named: str | None,
    inventory: str | None,
    gpu: str | None,
    nodes: int | None,
    gpus: int | None,
    layout: str | None,
    tp: int | None,
    pp: int | None,
    dp: int | None,
    ep: int | None,
    isl: float,
    osl: float,
    concurrency: int,
    slo: str | None,
    how_many: bool,
    disaggregated: bool,
    top: int,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Predict time to first token and time per token of MODEL: a recipe, a model whose sizes ship, or its folder.

    Nothing is started and no host is asked. Times are milliseconds; intervals hold 80 %.
    """
    from overspan.planner import answer
    from overspan.schema.errors import InputError
    from overspan.schema.layout import one_layout
    from overspan.schema.prediction import Demand

    if (model is None) == (named is None):
        raise InputError("name one model", next="for example: overspan predict minimax-m2.5-nvfp4 --gpu gb10 --tp 2")
    question = answer.Question(
        name=model or named or "",
        settings=settings,
        inventory=inventory,
        gpu=gpu,
        nodes=nodes,
        gpus=gpus,
        layout=one_layout(layout, {"tp": tp, "pp": pp, "dp": dp, "ep": ep}),
        demand=Demand(isl=isl, osl=osl, concurrency=concurrency),
        slo=slo,
        how_many=how_many,
        disaggregated=disaggregated,
        top=top,
    )
    found = answer.answer(question)
    click.echo(json.dumps(found, indent=1) if as_json else answer.as_text(found))
