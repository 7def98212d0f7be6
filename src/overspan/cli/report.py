"""`overspan report`: one HTML file from the files of a run, or of several laid over each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from overspan.bench.records import requests_in
from overspan.cli.options import AS_JSON, MEASURED, NEW_FILE
from overspan.cli.output import document
from overspan.report import RunDocuments, render, request_curves
from overspan.report.documents import Curve
from overspan.schema.errors import InputError, UnknownName
from overspan.store.benches import choice_of
from overspan.store.files import write_out
from overspan.store.run_folder import RunFolder, all_runs, open_run
from overspan.sweep.folder import MeasuredSweep, open_sweep
from overspan.sweep.page import render_sweep

FILE_NAME = "report.html"


@click.command()
@click.argument("run", nargs=-1, type=MEASURED)
@click.option("--out", type=NEW_FILE, help="File to write. Default: report.html in the run's folder.")
@AS_JSON
def report(run: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Write one HTML file that needs no other file and no network.

    For RUN (default: the newest) it shows plots, tables, checks, the plan and the commands. For a sweep it shows the
    Pareto front, latencies and every point. With several RUNs the plots and tables show them together.
    """
    sweep = _sweep(run)
    if sweep is not None:
        _write(render_sweep(sweep[1]), out or sweep[0] / FILE_NAME, [sweep[1].name], as_json=as_json)
        return
    folders = [open_run(name) for name in run] or [open_run()]
    if out is None and len(folders) > 1:
        raise InputError("a report of several runs has no folder of its own", next="give --out FILE")
    page = render(*(_documents(folder) for folder in folders))
    _write(page, out or folders[0].path / FILE_NAME, [folder.id for folder in folders], as_json=as_json)


def _write(page: str, out: Path, names: list[str], *, as_json: bool) -> None:
    write_out(out, page)
    target = out.absolute()
    if as_json:
        document({"report": str(target), "runs": names, "bytes": len(page.encode())})
    else:
        click.echo(str(target))


def _sweep(names: tuple[str, ...]) -> tuple[Path, MeasuredSweep] | None:
    """The folder and documents of a sweep, where one name is given and is a sweep's and no run's."""
    if len(names) != 1 or any(names[0] in (run.id, run.name) for run in all_runs()):
        return None
    try:
        folder = open_sweep(names[0])
    except UnknownName:
        return None
    return folder.path, folder.measured()


def _documents(run: RunFolder) -> RunDocuments:
    has_processes = (run.path / "processes.json").exists()
    return RunDocuments(
        name=run.id,
        plan=run.plan(),
        processes=run.processes() if has_processes else [],
        events=run.events() if (run.path / "events.jsonl").exists() else [],
        findings=run.findings(),
        bench=run.bench(),
        benches=choice_of(run).note,
        latencies={level: _curves(path) for level, path in run.requests().items()},
    )


def _curves(path: Path) -> Mapping[str, Curve]:
    return request_curves(requests_in(path))
