"""`overspan catalog`: the models and GPU kinds whose numbers ship."""

from __future__ import annotations

import click

from overspan.cli.options import AS_JSON
from overspan.cli.output import document, table
from overspan.schema.units import size


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def catalog() -> None:
    """List the models and GPU kinds whose numbers ship: `plan` and `predict` take them without a download."""


@catalog.command("models")
@AS_JSON
def models_(as_json: bool) -> None:
    """List the models: parameters, size of the weights, and the id of the checkpoint."""
    from overspan.catalog import models

    found = [(name, models.find(name)) for name in models.names()]
    if as_json:
        document([{"model": name, **each.model_dump(mode="json")} for name, each in found])
        return
    rows = [
        [
            name,
            _billions(each.parameters),
            _billions(each.active_parameters),
            size(each.weight_bytes),
            (*each.ids, "-")[0],
        ]
        for name, each in found
    ]
    click.echo(table(["model", "parameters", "active", "weights", "checkpoint"], rows, names=(4, 0)))


@catalog.command("gpus")
@AS_JSON
def gpus_(as_json: bool) -> None:
    """List the kinds of GPUs for --gpu: memory, its bandwidth, and the dense rates of three formats."""
    from overspan.catalog import hardware

    found = [kind for name in hardware.names() if (kind := hardware.find(name)).family != "cpu"]
    if as_json:
        document(found)
        return
    rows = [
        [
            each.name,
            f"{each.memory.bytes / 1e9:.0f} GB{' unified' if each.memory.unified else ''}",
            f"{each.bandwidth.bytes_per_s / 1e9:,.0f} GB/s",
            *(
                f"{each.rates[kind].flop_per_s / 1e12:,.0f}" if kind in each.rates else "-"
                for kind in ("bf16", "fp8", "fp4")
            ),
            str(each.gpus_per_host),
        ]
        for each in found
    ]
    click.echo(table(["kind", "memory", "bandwidth", "bf16 TF/s", "fp8 TF/s", "fp4 TF/s", "a host"], rows))


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.3g} B"
