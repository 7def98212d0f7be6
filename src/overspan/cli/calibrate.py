"""`overspan calibrate`: numbers of the machine at hand, or constants learned from its runs."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from overspan.cli.options import AS_JSON, NEW_FILE, RUN
from overspan.cli.output import document, say, table
from overspan.schema.errors import EngineMissing


@click.command()
@click.argument("run", nargs=-1, type=RUN)
@click.option("--from", "learn", is_flag=True, help="Learn from measured RUNs. This machine is not measured.")
@click.option("--out", type=NEW_FILE, help="YAML file to write. Default: standard output.")
@click.option("--python", metavar="PATH", help="Python to measure with. Default: the engine's.")
@click.option(
    "--ranks", type=click.IntRange(2, 1024), help="Ranks of the all-reduce. Default: all GPUs, or 2 on a CPU."
)
@click.option("--hardware", metavar="FILE", help="With --from: hardware to start from. Default: that of the runs.")
@AS_JSON
def calibrate(
    run: tuple[str, ...],
    *,
    learn: bool,
    out: Path | None,
    python: str | None,
    ranks: int | None,
    hardware: str | None,
    as_json: bool,
) -> None:
    """Measure five numbers of this machine, and write a hardware file for `overspan plan MODEL --hardware FILE`.

    The numbers are memory copy, matrix product, all-reduce latency and bandwidth, and the cost of a kernel launch.
    With --from, the planner's constants are fitted to what the RUNs measured; the error before and after is shown.
    """
    from overspan.schema.errors import InputError
    from overspan.schema.yamlio import dump
    from overspan.store.files import write_out

    if learn != bool(run):
        raise InputError(
            "RUNs need --from, and --from needs RUNs",
            next="overspan calibrate --from RUN..., or overspan calibrate alone",
        )
    spec, told = _learned(run, hardware) if learn else _measured(python, ranks)
    text = dump(spec)
    if out is not None:
        write_out(out, text)
        say(f"next: overspan plan MODEL --hardware {out} --explain")
    if as_json:
        document(
            {"hardware": spec.model_dump(mode="json", exclude_defaults=True), **told, "file": str(out) if out else None}
        )
    elif out is None:
        click.echo(text, nl=False)


def _learned(names: tuple[str, ...], hardware: str | None) -> tuple[Any, dict[str, Any]]:
    from overspan.catalog import hardware as kinds
    from overspan.planner.calibrate import from_runs
    from overspan.store.benches import choice_of
    from overspan.store.run_folder import open_run

    runs = [open_run(name) for name in names]
    found = from_runs(runs, kinds.find(hardware) if hardware else None)
    head = ["point", "TPOT ms", "before", "after", "TTFT ms", "before", "after"]
    keys = [f"{which}_{metric}" for metric in ("tpot_ms", "ttft_ms") for which in ("measured", "before", "after")]
    rows = [point._asdict() for point in found.points]
    say(table(head, [[row["point"], *(f"{row[key] or 0:.1f}" for key in keys)] for row in rows]))
    say(f"mean error of TPOT: {found.before:.1%} before, {found.after:.1%} after")
    unseen = found.held_out
    if unseen is None:
        say("nothing was held out: one point alone says nothing of others")
    else:
        waits = f"; TTFT {unseen.ttft_before:.1%}, {unseen.ttft_after:.1%}" if unseen.ttft_after is not None else ""
        what = f"on {unseen.points} points, each held out of the fit"
        say(f"{what}: TPOT {unseen.tpot_before:.1%} before, {unseen.tpot_after:.1%} after{waits}")
    notes = [f"{run.id}: {note}" for run in runs if (note := choice_of(run).note)]
    notes += [f"{run} is left out: it holds no undisturbed point of a closed loop" for run in found.left_out]
    notes += found.kept
    for note in notes:
        say(f"note: {note}")
    errors = {"error_before": found.before, "error_after": found.after}
    return found.hardware, {"points": rows, **errors, "held_out": unseen and unseen._asdict(), "notes": notes}


def _measured(python: str | None, ranks: int | None) -> tuple[Any, dict[str, Any]]:
    from overspan.engines.vllm import installed_python
    from overspan.inventory import here, measure
    from overspan.provision import fitting

    machine = here.this_machine()
    host = machine.hosts[0]
    try:
        found = measure.numbers(python or installed_python(machine), ranks, gpus=len(host.gpus))
    except EngineMissing as missing:
        with suppress(EngineMissing):  # no build fits: it is not offered
            fits = fitting.fit("cuda", host.gpus).lock
            missing.next = f"overspan engine install {fits.name} ({fits.description}); or {missing.next}"
        raise
    for what, why in found["missing"].items():
        say(f"{what} was not measured: {why}")
    spec = measure.spec_of(found, host, f"{datetime.now(UTC):%Y-%m-%d}")
    notes = [measure.beside_catalogue(spec)] if host.gpus else []
    for note in notes:
        say(f"note: {note}")
    return spec, {"measured": found, "notes": notes}
