"""`overspan prove`."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON, MODEL, ON, SET
from overspan.cli.output import document, interruptible, say, table
from overspan.schema.units import duration, gib


@click.command()
@click.argument("recipe", type=MODEL)
@click.option("--layouts", help="Layouts, such as tp2,pp2, or `all` for ten. Default: the recipe's.")
@ON
@SET
@AS_JSON
@click.pass_context
def prove(  # noqa: PLR0917 - click gives them by name
    ctx: click.Context,
    recipe: str,
    layouts: str | None,
    inventory: str | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Run a small twin of RECIPE's model in each layout, and compare its tokens with those of transformers.

    No GPU is needed. The twin has the heads and experts of the real model. It runs on the CPU engine, with the
    recipe's own arguments. With --on it runs on the CPUs of those hosts. Exit code 1: a layout is not exact. Ctrl-C
    ends all that was started.
    """
    from overspan.catalog import inventories, overrides, recipes
    from overspan.prove import proving

    interruptible()
    found = overrides.apply(recipes.find(recipe), list(settings))
    machines = inventories.find(inventory) if inventory else None
    proofs = []
    for proof in proving.prove(found, proving.layouts_of(layouts, found), say, on=machines):
        proofs.append(proof)
        verdict = "exact" if proof.exact else proof.error or (proof.first_difference and proof.first_difference.text)
        say(f"  {proof.layout}: {verdict} ({duration(proof.seconds)})")
    if as_json:
        document(proofs)
    else:
        rows = [
            [
                proof.layout,
                "exact" if proof.exact else "no",
                duration(proof.seconds),
                gib(proof.memory_bytes),
                str(proof.preemptions),
                str(proof.cached_tokens),
                f"{proof.accepted} of {proof.drafted}" if proof.drafted else "",
                proof.error or (proof.first_difference.text if proof.first_difference else ""),
            ]
            for proof in proofs
        ]
        header = ["layout", "exact", "time", "memory", "preempted", "cached", "drafts taken", "first difference"]
        click.echo(table(header, rows))
        missing = sorted({name for proof in proofs for name in proof.not_proven_here})
        if missing:
            say(f"not proven here (those without a reason need a GPU): {', '.join(missing)}")
    ctx.exit(0 if all(proof.exact for proof in proofs) else 1)
