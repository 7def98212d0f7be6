"""`overspan twin`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from overspan.cli.options import AS_JSON, MODEL, PATH
from overspan.cli.output import document, say


@click.command()
@click.argument("model", type=MODEL)
@click.option("--out", required=True, type=PATH, help="Folder to write.")
@click.option(
    "--weights",
    type=click.Choice(["real", "fp32", "bf16", "fp8_block", "nvfp4"]),
    default="real",
    help="Format of the weights. real: the model's own. A CPU engine takes fp32 and bf16.",
)
@AS_JSON
def twin(model: str, out: Path, weights: Literal["real", "fp32", "bf16", "fp8_block", "nvfp4"], as_json: bool) -> None:
    """Write a small model that splits over ranks exactly as MODEL does.

    MODEL is a folder with a config.json, a name or Hugging Face id of the catalogue, or a recipe. The small model has
    as many heads, KV heads and experts as the real one. So both refuse the same layouts.
    """
    from overspan.prove.proving import write_twin

    facts = write_twin(model, out, weights)
    if as_json:
        document(facts)
        return
    click.echo(
        f"{out}: {facts.architecture}, {facts.weights}, {facts.parameters:,} parameters, {facts.weight_bytes:,} bytes"
    )
    for name, (real, small) in facts.shrunk.items():
        if real != small:
            click.echo(f"  {name}: {real} -> {small}")
    for note in facts.notes:
        say(f"note: {note}")
