"""`overspan prove`."""

from __future__ import annotations

import signal
from types import FrameType

import click

from overspan.cli.output import document, duration, gib, say, table


@click.command()
@click.argument("recipe")
@click.option("--layouts", help="Comma-separated, or `all` for the ten. Default: the recipe's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
@click.pass_context
def prove(ctx: click.Context, recipe: str, layouts: str | None, as_json: bool) -> None:
    """Run a twin of RECIPE's model in each layout, and compare it with transformers token for token.

    It needs no GPU: the twin is small, has the real model's heads and experts, and runs on the CPU engine with the
    recipe's own arguments. Exit code 1 where a layout is not exact. Ctrl-C ends what was started.
    """
    from overspan.catalog import recipes
    from overspan.runs import prove as proving

    signal.signal(signal.SIGTERM, _interrupt)
    found = recipes.find(recipe)
    proofs = []
    for proof in proving.prove(found, proving.layouts_of(layouts, found), say):
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
                proof.error or (proof.first_difference.text if proof.first_difference else ""),
            ]
            for proof in proofs
        ]
        click.echo(table(["layout", "exact", "time", "memory", "first difference"], rows))
        missing = sorted({name for proof in proofs for name in proof.not_proven_here})
        if missing:
            say(f"not proven here, for want of a GPU: {', '.join(missing)}")
    ctx.exit(0 if all(proof.exact for proof in proofs) else 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
