"""`overspan twin`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from overspan.cli.output import document, say


@click.command()
@click.argument("model")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--weights",
    type=click.Choice(["real", "fp32", "bf16", "fp8_block", "nvfp4"]),
    default="real",
    show_default=True,
    help="Format of the weights; real is the model's own. A CPU engine takes fp32 and bf16.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one document.")
def twin(model: str, out: Path, weights: Literal["real", "fp32", "bf16", "fp8_block", "nvfp4"], as_json: bool) -> None:
    """Write a model small enough for a laptop that is split like MODEL.

    MODEL is a folder with a config.json, a name or Hugging Face id of the catalogue, or a recipe. Its heads, KV heads
    and experts are counted as in the real one, so that a layout that the real model refuses, the twin refuses.
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
