"""`overspan bench`."""

from __future__ import annotations

import os
import secrets

import click

from overspan.bench.run import Bench
from overspan.bench.target import make_target
from overspan.cli.output import Ticker, document, say, table
from overspan.runs import keys
from overspan.runs.folder import RunFolder, open_run
from overspan.schema.errors import InputError, NotReady
from overspan.schema.event import SERVING_STATES
from overspan.schema.workload import BenchPoint, BenchResult, Distribution, Workload


def _users(ctx: click.Context, param: click.Parameter, value: str) -> list[int]:
    """`1,4,16,64`: whole numbers from 1, each once."""
    entries = [entry.strip() for entry in value.split(",")]
    for entry in entries:
        if not entry.isascii() or not entry.isdigit() or not 1 <= int(entry) <= 1_000_000:
            raise click.BadParameter(f"'{entry}' in '{value}' is no number of users: write 1,4,16", ctx, param)
    users = [int(entry) for entry in entries]
    twice = [str(user) for user in dict.fromkeys(users) if users.count(user) > 1]
    if twice:
        raise click.BadParameter(f"{', '.join(twice)} stands twice in '{value}'", ctx, param)
    return users


@click.command()
@click.argument("run", required=False)
@click.option("--base-url", help="Measure this OpenAI endpoint, such as http://127.0.0.1:8000/v1, in place of a run.")
@click.option("--model", help="Name in the API. Default: the only one served.")
@click.option("--concurrency", "-c", callback=_users, default="1,4,16", show_default=True, help="Users at once.")
@click.option("--requests", "-n", type=click.IntRange(min=1), help="At each concurrency. Default: 4 a user.")
@click.option("--input-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--endpoint", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option("--seed", type=int, help="Makes the prompts repeatable; a prefix cache then knows them the second time.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=0, show_default=True, help="Uncounted requests a point.")
@click.option("--strict", is_flag=True, help="Exit code 1 when a request failed or the client was the bottleneck.")
@click.option("--insecure", is_flag=True, help="Do not check the certificate of an https endpoint.")
@click.option("--json", "as_json", is_flag=True)
def bench(run: str | None, base_url: str | None, model: str | None, as_json: bool, strict: bool, **load: object) -> int:
    """Measure RUN (default: the active one) under load. An endpoint's key is taken from OVERSPAN_API_KEY."""
    if run is not None and base_url is not None:
        raise InputError("RUN and --base-url exclude each other", next="give one of them")
    insecure = bool(load.pop("insecure"))
    workload = _workload(load)
    folder = None if base_url is not None else _serving(run)
    ticker = Ticker()

    def progress(users: int, planned: int, ended: int, failed: int, in_flight: int) -> None:
        ticker.show(f"{users} users: {ended} of {planned} requests, {in_flight} in flight, {failed} failed")

    if folder is None:
        target = make_target(str(base_url), os.environ.get("OVERSPAN_API_KEY"), insecure=insecure)
    else:
        endpoint = folder.plan().endpoint
        target = make_target(endpoint.base_url, keys.read(folder).get(keys.API_KEY))
        model = model or endpoint.model
    job = Bench(target, model, workload, folder=folder.path if folder else None, progress=progress, insecure=insecure)
    try:
        result = job.run()
    finally:
        ticker.clear()
    if folder is not None:
        _keep(folder, result, interrupted=job.interrupted)
    _show(result, as_json=as_json)
    return _exit_code(result, strict=strict, interrupted=job.interrupted)


def _workload(load: dict[str, object]) -> Workload:
    users = load["concurrency"]
    load["requests"] = load["requests"] or (4 * max(users) if isinstance(users, list) else 1)
    load["seed"] = secrets.randbelow(2**31) if load["seed"] is None else load["seed"]
    return Workload.model_validate(load)


def _serving(run: str | None) -> RunFolder:
    folder = open_run(run)
    state = folder.state()
    if state not in SERVING_STATES:
        raise NotReady(f"run {folder.id} is {state}: there is nothing to measure", next=f"overspan status {folder.id}")
    return folder


def _keep(folder: RunFolder, result: BenchResult, *, interrupted: bool) -> None:
    folder.write("bench.json", result)
    users = ", ".join(str(point.concurrency) for point in result.points)
    ended = "interrupted; measured" if interrupted else "measured"
    serving = folder.state() in SERVING_STATES
    folder.append(f"{ended} at {users} users", state="benched" if serving and not interrupted else None)


def _exit_code(result: BenchResult, *, strict: bool, interrupted: bool) -> int:
    if interrupted:
        return 130
    if not any(point.requests.ok for point in result.points):
        return 1
    spoiled = any(point.client_bound or point.requests.failed for point in result.points)
    return 1 if strict and spoiled else 0


def _show(result: BenchResult, *, as_json: bool) -> None:
    if as_json:
        document(result.points)
    else:
        header = ["users", "ok", "failed", "TTFT ms", "p99", "TPOT ms", "p99", "ITL ms p99", "E2E ms", "out tok/s"]
        click.echo(f"{result.model} at {result.base_url}")
        click.echo(table(header, [_row(point) for point in result.points]))
    for point in result.points:
        for kind, count in point.requests.errors.items():
            say(f"at {point.concurrency} users: {count} failed: {kind}")
    for note in result.notes:
        say(f"note: {note}")


def _row(point: BenchPoint) -> list[str]:
    def both(times: Distribution) -> list[str]:
        return [_number(times.mean), _number(times.p99)]

    users = f"{point.concurrency}"
    counts = [users, str(point.requests.ok), str(point.requests.failed)]
    rest = [_number(point.itl_ms.p99), _number(point.e2e_ms.mean), _number(point.output_tokens_per_s)]
    return [*counts, *both(point.ttft_ms), *both(point.tpot_ms), *rest]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
