"""`overspan plan`: the best layout and why, and the exact commands that would run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from overspan.cli.options import (
    AS_JSON,
    HARDWARE,
    LOAD,
    MACHINES,
    MODEL,
    ON,
    SET,
    WEIGHTS,
    demand_of,
    options,
    question_of,
)
from overspan.cli.output import document, say, table
from overspan.engines import registry
from overspan.planner.make import states_layout
from overspan.runs.planning import Wanted, Weights, asked_for, offered, plan_of, processes_of
from overspan.schema.errors import InputError, PlanRefused
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec
from overspan.schema.units import count

if TYPE_CHECKING:
    from overspan.launchers.base import Launcher
    from overspan.planner.answer import PlanAnswer, PlanQuestion


@click.command()
@click.argument("model", type=MODEL)
@ON
@options(LOAD, MACHINES)
@HARDWARE
@WEIGHTS
@SET
@click.option("--show", type=click.Choice(["commands"]), help="Print the commands for each host, to run them by hand.")
@click.option("--render", type=click.Choice(["k8s"]), help="Print the Kubernetes objects that would run it.")
@click.option("--explain", is_flag=True, help="Rank the layouts that fit, and say what limits each.")
@AS_JSON
def plan(
    model: str,
    *,
    show: str | None,
    render: str | None,
    explain: bool,
    weights: Weights,
    as_json: bool,
    **asked: Any,
) -> None:
    """Show how MODEL would run on machines. No host is asked, and nothing is started.

    MODEL is a recipe, a Hugging Face id or a folder. An id that is not on this machine is planned from its config.json
    and the headers of its weights; the weights are not fetched. A recipe may state a layout. Otherwise the best layout
    for the load is planned, and `overspan up` with the same arguments starts it. A load, a limit or --gpu
    ranks all layouts, as --explain does.
    """
    _sizes_of(model)
    load = {name: asked[name] for name in ("input_tokens", "output_tokens", "concurrency", "rate_per_s", "requests")}
    if asked["gpu"] or asked["how_many"]:
        if asked["inventory"]:
            raise InputError(
                "--on and --gpu exclude each other: --on names your machines, --gpu machines that you do not have",
                next="give one of them",
            )
        found = _ranking(question_of(model, **asked))
        document(found.as_json()) if as_json else click.echo(_as_text(found))
        return
    on, settings, slo, hardware = (asked[name] for name in ("inventory", "settings", "slo", "hardware"))
    wanted = Wanted(model, on, settings, None, demand_of(**load), slo, hardware, weights=weights)
    ranked, stated = None, False
    if explain or wanted.demand or wanted.slo:
        recipe, machines = asked_for(wanted)
        stated = states_layout(recipe) and recipe.topology is None
        question = question_of(model, machines=machines, **{**asked, "inventory": None, "hardware": None})
        try:
            ranked = _ranking(question)
        except PlanRefused as refused:
            refused.next = offered(wanted) or refused.next
            raise
    made = plan_of(wanted, to_start=False)
    if render:
        from overspan.render.kubernetes import as_yaml, manifests

        document(manifests(made)) if as_json else click.echo(as_yaml(made), nl=False)
        return
    made = _submitted(made)
    processes = processes_of(made)
    if as_json:
        whole = {**made.model_dump(mode="json"), "processes": [spec.model_dump(mode="json") for spec in processes]}
        whole |= {"load": made.prediction.demand.phrase} if made.prediction else {}
        document(whole | ({"explain": ranked.as_json()} if ranked else {}))
    elif show == "commands":
        click.echo(_launcher(made).commands(processes))
    else:
        if ranked:
            click.echo(_as_text(ranked) + "\n")
        _print(made, processes)
        if ranked and stated and ranked.best != made.layout.label:
            click.echo(f"the recipe states {made.layout.label}; --set layout={ranked.best} takes the best")


def _submitted(made: Plan) -> Plan:
    """Machines that a launcher chooses find model and image elsewhere than a plan for this one says."""
    return _launcher(made).as_staged() if made.inventory.traits.chooses_hosts else made


def _launcher(made: Plan) -> Launcher:
    from overspan.launchers.registry import launcher_of  # imported when asked: most plans ask nothing of it

    return launcher_of(made)


def _sizes_of(model: str) -> None:
    from overspan.provision.sizes import bring_sizes

    why = bring_sizes(model)
    if why:
        say(f"note: {why}")


def _ranking(question: PlanQuestion) -> PlanAnswer:
    from overspan.planner.answer import answer  # imported when asked: most plans rank nothing

    return answer(question)


def _as_text(found: PlanAnswer) -> str:
    from overspan.planner.answer import as_text

    return as_text(found, table)


def _print(made: Plan, processes: list[ProcessSpec]) -> None:
    engine = made.engine
    shape = made.recipe.topology or made.layout.label
    click.echo(f"{made.recipe.name}: {shape} of {made.recipe.model} on {made.inventory.name}")
    image = f", image {engine.image}" if engine.image else ""
    click.echo(f"engine {registry.find(engine.name).label(engine)}{image}")
    click.echo(f"endpoint {made.endpoint.base_url} as {made.endpoint.model}")
    rows = [
        [each.process, each.host, ",".join(map(str, each.ranks)), ",".join(map(str, each.gpus)) or "-"]
        for each in made.placements
    ]
    with_ranks = {each.process for each in made.placements}
    rows += [[each.name, each.host, "-", "-"] for each in processes if each.name not in with_ranks]
    click.echo(table(["process", "host", "ranks", "GPUs"], rows))
    for line in _sizes(made):
        click.echo(line)
    for note in [*engine.notes, *made.notes]:
        click.echo(f"note: {note}")
    click.echo(f"{count(len(processes), 'process')}; for the exact commands add --show commands")


def _sizes(made: Plan) -> list[str]:
    """The model's parameters, and the sum of what the fullest rank holds; nothing where they are not counted."""
    size, held = made.parameters, made.memory
    lines = [f"parameters: {size.total / 1e9:.3g} B, {size.active / 1e9:.3g} B active for a token"] if size else []
    if held is not None:
        names = ("weights", "kv", "state", "activations", "graphs", "context")
        terms = {name: value for name in names if (value := getattr(held, name)) != 0}
        told = " + ".join(f"{_gigabytes(value)} {name}" for name, value in terms.items())
        known = sum(value for value in terms.values() if value is not None)
        assumed = [name for name in held.assumed if name in terms]
        budget = "" if held.budget is None else f" of {held.budget / 1e9:.1f} GB"
        guess = f" (assumed: {', '.join(assumed)})" if assumed else ""
        lines.append(f"memory of the fullest rank: {told} = {known / 1e9:.1f}{budget}{guess}")
    return lines


def _gigabytes(value: int | None) -> str:
    """Bytes in GB, as the planner's refusals have them."""
    return "unknown" if value is None else f"{value / 1e9:.{1 if value >= 1e9 else 2}f}"
