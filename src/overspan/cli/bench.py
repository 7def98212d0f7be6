"""`overspan bench`."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from overspan.bench.clocks import hosts_of_run
from overspan.bench.lengths import parse_lengths
from overspan.bench.pauses import EngineLog
from overspan.bench.run import Bench
from overspan.bench.trace import read_trace
from overspan.cli.options import ANSWERS, AS_JSON, COUNT, POSITIVE, PROMPTS, RUN, Finite
from overspan.cli.output import Ticker, document, say, table
from overspan.engines import registry
from overspan.schema.defaults import USUAL_INPUT_TOKENS, USUAL_OUTPUT_TOKENS
from overspan.schema.errors import InputError, NotReady
from overspan.schema.event import SERVING_STATES
from overspan.schema.slo import parse_limits
from overspan.schema.workload import (
    FEWEST_REQUESTS,
    REQUESTS_A_USER,
    BenchPoint,
    BenchResult,
    Workload,
)
from overspan.store import run_secrets
from overspan.store.benches import NewBench, answered, replaces
from overspan.store.run_folder import RunFolder, open_run


def _users(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    """`1,4,16,64`: whole numbers from 1, each once."""
    entries = [] if value is None else [entry.strip() for entry in value.split(",")]
    for entry in entries:
        if not entry.isascii() or not entry.isdigit() or len(entry) > 7 or not 1 <= int(entry) <= 1_000_000:
            raise click.BadParameter(f"'{entry}' in '{value}' is not a number of users: write 1,4,16", ctx, param)
    return _once([int(entry) for entry in entries], ctx, param)


def _rates(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float]:
    """`0.5,2,8`: requests per second, each once."""
    try:
        rates = [] if value is None else [float(entry) for entry in value.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate <= 1e6 for rate in rates):
        raise click.BadParameter(f"'{value}' is not a list of requests per second: write 0.5,2,8", ctx, param)
    return _once(rates, ctx, param)


def _once(values: list[Any], ctx: click.Context, param: click.Parameter) -> list[Any]:
    twice = [str(value) for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise click.BadParameter(f"{', '.join(twice)} stands twice", ctx, param)
    return values


def _slo(ctx: click.Context, param: click.Parameter, value: str | None) -> dict[str, float]:
    if value is not None and not value.strip():
        raise click.BadParameter("'' is not a limit: write ttft=500,tpot=50", ctx, param)
    return parse_limits(value)


@click.command()
@click.argument("run", required=False, type=RUN)
@click.option("--base-url", help="Measure this OpenAI endpoint, such as http://127.0.0.1:8000/v1.")
@click.option("--model", help="Name of the model in the API. Default: the only one that is served.")
@click.option("--concurrency", "-c", callback=_users, help="Users at the same time: a list. Default: 1,4,16.")
@click.option("--rates", "--rate", callback=_rates, help="Requests per second, in place of users (open loop): a list.")
@click.option(
    "--arrival",
    type=click.Choice(["constant", "poisson", "gamma", "trace"]),
    help="How requests arrive at --rates. Default: poisson.",
)
@click.option("--burstiness", type=POSITIVE, default=1.0, help="For gamma arrivals: below 1 is burstier than poisson.")
@click.option(
    "--requests",
    "-n",
    type=COUNT,
    help="Requests at each point. Default: 4 for each user and 16 at least, 100 for each rate, all of a trace.",
)
@click.option("--duration", "duration_s", type=POSITIVE, help="Seconds at each point, in place of --requests.")
@click.option(
    "--ramp", "ramp_s", type=Finite(min=0), default=0.0, help="The users start one by one within this many seconds."
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=0,
    help="Requests at each point that do not count; sent again while the server pauses, 5 times at most.",
)
@click.option("--input-tokens", "--isl", default=str(USUAL_INPUT_TOKENS), show_default=True, help=PROMPTS)
@click.option("--output-tokens", "--osl", default=str(USUAL_OUTPUT_TOKENS), show_default=True, help=ANSWERS)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=True,
    help="Answers go on behind the model's end of text, up to the length that is asked.",
)
@click.option("--turns", type=COUNT, default=1, help="Requests in one conversation.")
@click.option(
    "--shared-prefix",
    "shared_prefix_tokens",
    type=click.IntRange(min=0),
    default=0,
    help="Tokens that every prompt begins with.",
)
@click.option("--trace", help="Send the requests of this file: Mooncake's JSON lines, or ShareGPT's JSON.")
@click.option("--trace-speed", type=POSITIVE, default=1.0, help="Replay a trace faster: 2 is twice.")
@click.option("--slo", "slo_ms", callback=_slo, help="Limits in ms, such as ttft=500,tpot=50. Goodput is reported.")
@click.option(
    "--slo-share",
    type=Finite(0, 1, min_open=True),
    default=0.99,
    help="Share of the requests that must keep --slo in a --search.",
)
@click.option("--search", is_flag=True, help="Find the highest load that keeps --slo.")
@click.option("--endpoint", type=click.Choice(["chat", "completions"]), default="chat", help="API to ask.")
@click.option("--seed", type=int, help="Repeat the same prompts. A prefix cache knows them the second time.")
@click.option(
    "--timeout", "timeout_s", type=POSITIVE, default=600.0, help="Seconds after which a request counts as failed."
)
@click.option("--shards", type=COUNT, help="Processes that send the load. Default: as many as the load needs.")
@click.option("--no-calibration", is_flag=True, help="Do not test the client against a known server first.")
@click.option(
    "--strict",
    is_flag=True,
    help="Exit code 1 if a request failed, lengths differ from those asked, the server stood still or the client was "
    "the bottleneck.",
)
@click.option("--insecure", is_flag=True, help="Do not check the certificate of an https endpoint.")
@AS_JSON
def bench(run: str | None, base_url: str | None, model: str | None, as_json: bool, strict: bool, **load: Any) -> int:
    """Measure RUN (default: the active run) under load. OVERSPAN_API_KEY holds an endpoint's key."""
    if run is not None and base_url is not None:
        raise InputError("RUN and --base-url exclude each other", next="give one of them")
    how: dict[str, Any] = {"insecure": load.pop("insecure"), "calibrated": not load.pop("no_calibration")}
    workload = workload_of(load)
    folder = None if base_url is not None else open_run(run)
    if folder is not None and (state := folder.state()) not in SERVING_STATES:
        nothing = f"run {folder.id} is {state}: there is nothing to measure"
        raise NotReady(nothing, next=f"overspan status {folder.id}")
    ticker = Ticker()

    def progress(level: str, ended: int, failed: int, in_flight: int) -> None:
        ticker.show(f"{level}: {ended} requests ended, {in_flight} in flight, {failed} failed")

    def told(text: str) -> None:
        ticker.clear()
        say(text)

    api_key = run_secrets.given()
    if folder is not None:
        endpoint = folder.plan().endpoint
        engine = registry.find(folder.plan().engine.name)
        how |= {"metrics": engine.metrics, "engine_log": EngineLog(folder.logs, engine.pause_line)}
        how["gpus"] = hosts_of_run(folder.plan())
        base_url, model = endpoint.base_url, model or endpoint.model
        api_key = run_secrets.key_of(folder) or api_key
    kept = NewBench(folder) if folder is not None else None
    path = kept.folder if kept is not None else None
    try:
        job = Bench(str(base_url), model, workload, api_key=api_key, folder=path, progress=progress, tell=told, **how)
        result = job.run()
    finally:
        ticker.clear()
        if kept is not None:
            kept.drop_if_empty()
    if folder is not None and kept is not None:
        result = _keep(folder, kept, result, whole=not (job.interrupted or job.broke))
    _show(result, as_json=as_json)
    if job.interrupted:
        return 130
    spoiled = any(
        point.client_bound or point.disturbed or point.requests.failed or point.lengths_off for point in result.points
    )
    answered = any(point.requests.ok for point in result.points)
    return int(not answered or (strict and spoiled) or job.broke)


def _keep(run: RunFolder, kept: NewBench, result: BenchResult, *, whole: bool) -> BenchResult:
    """Write a result into its run; one that is not read from now on says so in its notes."""
    was, good = run.bench(), bool(answered(result))
    taken = replaces(result, was)
    if was is not None and not taken:
        why = "most requests failed" if good else "no request ended well"
        note = f"{why}: kept as bench-{kept.number:03}.json; bench.json stays that of {was.started_at}"
        result = result.with_(notes=[*result.notes, note])
    kept.keep(result, taken=taken)
    serves = whole and good and run.state() in SERVING_STATES
    what = "measured" if good else "measured nothing"
    loads = ", ".join(point.load for point in result.points)
    run.append(f"{'' if whole else 'interrupted; '}{what} at {loads}", state="benched" if serves else None)
    return result


def workload_of(load: dict[str, Any]) -> Workload:
    """The workload of the command's options.

    Raises:
        InputError: options that exclude each other, or a length that is none.
    """
    for one, other in (("concurrency", "rates"), ("requests", "duration_s")):
        if load[one] and load[other]:
            names = [name.removesuffix("_s") for name in (one, other)]
            raise InputError(f"--{names[0]} and --{names[1]} exclude each other", next="give one of them")
    users, rates, arrival = load["concurrency"], load["rates"], load["arrival"]
    if arrival == "trace" and (users or rates):
        raise InputError("a trace brings its own times", next="leave out --concurrency and --rates, or --arrival trace")
    if arrival in ("constant", "poisson", "gamma") and not rates:
        raise InputError(f"{arrival} arrivals need a rate", next="give --rates 1,2,4")
    load["arrival"] = arrival or ("poisson" if rates else "closed")
    if load["arrival"] == "closed":
        load["concurrency"] = users or [1, 4, 16]
    if not load["requests"] and load["arrival"] == "trace" and load["trace"] is not None:
        load["requests"] = len(read_trace(Path(load["trace"]))[0])
    elif not load["requests"]:
        load["requests_a_user"] = REQUESTS_A_USER if load["concurrency"] else None
        most = max(FEWEST_REQUESTS, REQUESTS_A_USER * max(load["concurrency"], default=0))
        load["requests"] = most if load["concurrency"] else 100
    load["seed"] = secrets.randbelow(2**31) if load["seed"] is None else load["seed"]
    for kind in ("input", "output"):
        lengths = parse_lengths(load[f"{kind}_tokens"])
        load[f"{kind}_tokens"] = lengths.mean
        load[f"{kind}_lengths"] = None if lengths.notation.isdigit() else lengths.notation
    return Workload.model_validate(load)


def _show(result: BenchResult, *, as_json: bool) -> None:
    if as_json:
        document([{"load": result.demand(each).phrase, **each.model_dump(mode="json")} for each in result.points])
    else:
        header = ["users", "ok", "failed", "TTFT ms", "p99", "TPOT ms", "p99", "ITL ms p99", "E2E ms", "out tok/s"]
        rates = [f"{point.rate_per_s:g}" for point in result.points if point.rate_per_s is not None]
        rows = [_row(point) for point in result.points]
        if rates:
            header, rows = ["req/s", *header], [[rate, *row] for rate, row in zip(rates, rows, strict=True)]
        click.echo(f"{result.model} at {result.base_url}: {result.phrase}")
        click.echo(table(header, rows))
    for point in result.points:
        for kind, count in point.requests.errors.items():
            quote = point.requests.details.get(kind)
            say(f"at {point.load}: {count} failed: {kind}{f': {quote}' if quote else ''}")
        if point.goodput is not None and not as_json:
            good = point.goodput
            say(f"at {point.load}: {good.share:.1%} within the limits, {good.requests_per_s:g} requests/s")
    for note in result.notes:
        say(f"note: {note}")


def _row(point: BenchPoint) -> list[str]:
    numbers = [point.ttft_ms.mean, point.ttft_ms.p99, point.tpot_ms.mean, point.tpot_ms.p99]
    numbers += [point.itl_ms.p99, point.e2e_ms.mean, point.output_tokens_per_s]
    counts = [str(point.concurrency), str(point.requests.ok), str(point.requests.failed)]
    return [*counts, *("-" if number is None else f"{number:.1f}" for number in numbers)]
