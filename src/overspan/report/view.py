"""What the page says, worked out from the documents: sentences, rows and durations. No markup is made here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from overspan.catalog import recipes
from overspan.planner import predict_measured
from overspan.report.documents import METRICS, RunDocuments
from overspan.report.figures import Style, interactivity, series_style, shown_points
from overspan.report.text import NOTHING, column, figure, number, plain
from overspan.schema.errors import OverspanError
from overspan.schema.event import FINAL_STATES, Event
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host
from overspan.schema.units import count, duration
from overspan.schema.workload import BenchPoint

LATENCY_STATISTICS = ("p50", "p90", "p99")
PREDICTED_HEADS = ("TPOT predicted", "80 % interval", "measured", "ratio", "ceiling", "TTFT predicted", "measured",
                   "ratio")  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """One key figure."""

    value: str
    unit: str
    label: str
    bad: bool = False


@dataclass(frozen=True)
class MeasuredRow:
    """One measured point in the tables."""

    run: str
    series: int
    point: BenchPoint
    cells: list[str]


@dataclass(frozen=True)
class StateSpan:
    """A state of the run: when it was entered, how long it held (None: it is the last), its share of the whole."""

    state: str
    offset: str
    duration: str | None
    share: float


@dataclass(frozen=True)
class Missing:
    """A file that the run does not have, what the report lacks for it, and the command that makes it."""

    file: str
    lacks: str
    command: str


def best_point(run: RunDocuments) -> tuple[float, BenchPoint] | None:
    """The point with the most output tokens per second, behind these."""
    measured = [(rate, point) for point in run.points if (rate := point.output_tokens_per_s)]
    return max(measured, key=lambda pair: pair[0], default=None)


def first_token_point(run: RunDocuments) -> tuple[float, BenchPoint] | None:
    """The point of fewest users that has a TTFT, behind its median in ms."""
    return next(((ttft, point) for point in run.points if (ttft := point.ttft_ms.p50) is not None), None)


def machine(run: RunDocuments) -> str:
    """`2 × gb10 on 2 hosts`, `2 CPU cores`: what the run used."""
    used = [host for host in run.plan.inventory.hosts if any(place.host == host.name for place in run.plan.placements)]
    hosts = used or run.plan.inventory.hosts
    where = f" on {len(hosts)} hosts" if len(hosts) > 1 else ""
    if not run.gpus_used:
        return count(sum(host.cores for host in hosts), "CPU core") + where
    held = {(place.host, gpu) for place in run.plan.placements for gpu in place.gpus}
    kinds = Counter(gpu.kind for host in hosts for gpu in host.gpus if (host.name, gpu.index) in held)
    return " and ".join(f"{amount} × {kind}" for kind, amount in kinds.items()) + where


def headline(runs: Sequence[RunDocuments]) -> str:
    """The report in one sentence."""
    if len(runs) > 1:
        return _headline_of_several(runs)
    run = runs[0]
    what = f"{run.plan.recipe.public_name}{_drawn(run)} as {run.plan.layout.label} on {machine(run)}"
    best, first = best_point(run), first_token_point(run)
    if best:
        soon = f", and its first token after {_soon(*first)}" if first else ""
        return f"{what} gave {_much(*best)}{soon}."
    if run.state == "failed":
        return f"{what} failed."
    return f"{what}: {'no request succeeded' if run.bench else 'not measured yet'}."


def _headline_of_several(runs: Sequence[RunDocuments]) -> str:
    measured = [(best, f"{run.name}{_drawn(run)}") for run in runs if (best := best_point(run))]
    if not measured:
        return f"{len(runs)} runs, none of them measured yet."
    best, name = max(measured, key=lambda pair: pair[0][0])
    firsts = [(first, f"{run.name}{_drawn(run)}") for run in runs if (first := first_token_point(run))]
    first, other = min(firsts, key=lambda pair: pair[0][0], default=(None, ""))
    soon = f" The soonest first token came from {other}: {_soon(*first)}." if first else ""
    return f"Of {len(runs)} runs, {name} gave the most: {_much(*best)}.{soon}"


def _drawn(run: RunDocuments) -> str:
    return " with synthetic weights" if run.plan.recipe.has_drawn_weights else ""


def requests_sent(run: RunDocuments) -> str:
    """How many requests each point had, as they were sent: `16 requests at each number of users`, or one by one."""
    if run.bench is None:
        return ""
    load, points = run.bench.workload, run.points
    each = "a trace" if load.arrival == "trace" else "each rate" if load.rates else "each number of users"
    limit = f", sent within {load.duration_s:g} s" if load.duration_s is not None else ""
    sent = {point.requests.planned for point in points}
    if len(sent) == 1:
        return f"{count(sent.pop(), 'request')} {'of' if load.arrival == 'trace' else 'at'} {each}{limit}"
    told = ", ".join(f"{count(point.requests.planned, 'request')} at {point.load}" for point in points)
    return f"{told}{limit}"


def _much(rate: float, point: BenchPoint) -> str:
    stopped = " (the server stood still at times)" if point.disturbed else ""
    return f"{'at least ' if point.client_bound else ''}{figure(rate)} tok/s at {point.load}{stopped}"


def _soon(ttft_ms: float, point: BenchPoint) -> str:
    return f"{figure(ttft_ms)} ms with {point.load}"


def tiles(run: RunDocuments) -> list[Tile]:
    """Key figures of one run; none without a bench."""
    if run.bench is None:
        return []
    found = []
    if best := best_point(run):
        rate, point = best
        found.append(Tile(figure(rate), "tok/s", f"output at {point.load}, the most"))
    if first := first_token_point(run):
        ttft_ms, point = first
        found.append(Tile(figure(ttft_ms), "ms", f"TTFT at {point.load}, median"))
        if speed := interactivity(point):
            found.append(Tile(figure(speed), "tok/s/user", f"interactivity at {point.load}"))
    planned = sum(point.requests.planned for point in run.points)
    failed = sum(point.requests.failed for point in run.points)
    ok = sum(point.requests.ok for point in run.points)
    label = f"requests ok, {failed:,} failed" if failed else "requests ok, none failed"
    found.append(Tile(f"{ok:,} of {planned:,}", "", label, bad=ok < planned))
    return found


def throughput_table(runs: Sequence[RunDocuments]) -> tuple[list[tuple[str, str]], list[MeasuredRow]]:
    """Heads (name and unit) and rows of the rates; a rate that no point has gets no column."""
    pairs = _pairs(runs)
    columns: list[tuple[str, str, list[float | None]]] = [
        ("Output", "tok/s", [point.output_tokens_per_s for _, _, point in pairs]),
        ("Input + output", "tok/s", [point.total_tokens_per_s for _, _, point in pairs]),
        ("Output per GPU", "tok/s", [_per_gpu(run, point) for _, run, point in pairs]),
        ("Interactivity", "tok/s/user", [interactivity(point) for _, _, point in pairs]),
        ("Took", "s", [point.duration_s for _, _, point in pairs]),
    ]
    known = [(name, unit, values) for name, unit, values in columns if any(value is not None for value in values)]
    return [(name, unit) for name, unit, _ in known], _rows(pairs, [column(values) for _, _, values in known])


def latency_rows(runs: Sequence[RunDocuments]) -> list[MeasuredRow]:
    """Latencies of every point; cells: each of LATENCY_STATISTICS of each of METRICS."""
    pairs = _pairs(runs)
    columns = [
        column([getattr(getattr(point, metric), statistic) for _, _, point in pairs])
        for metric in METRICS
        for statistic in LATENCY_STATISTICS
    ]
    return _rows(pairs, columns)


def _pairs(runs: Sequence[RunDocuments]) -> list[tuple[int, RunDocuments, BenchPoint]]:
    return [(index, run, point) for index, run in enumerate(runs) for point in run.points]


def _rows(pairs: Sequence[tuple[int, RunDocuments, BenchPoint]], columns: Sequence[Sequence[str]]) -> list[MeasuredRow]:
    return [
        MeasuredRow(run.name, index, point, [cells[position] for cells in columns])
        for position, (index, run, point) in enumerate(pairs)
    ]


def _per_gpu(run: RunDocuments, point: BenchPoint) -> float | None:
    return point.output_tokens_per_s / run.gpus_used if run.gpus_used and point.output_tokens_per_s else None


def client_bound_points(runs: Sequence[RunDocuments]) -> list[MeasuredRow]:
    """The points whose numbers are the load generator's, not the server's."""
    return [row for row in _rows(_pairs(runs), []) if row.point.client_bound]


def stages(events: Sequence[Event]) -> list[StateSpan]:
    """The states that the run went through, with the time spent in each."""
    entered = [event for event in events if event.state]
    if not entered:
        return []
    start, last = entered[0].at, events[-1].at
    whole = max((last - start).total_seconds(), 1e-9)
    found = []
    for index, event in enumerate(entered):
        is_last = index + 1 == len(entered)
        ends_run = is_last and event.state in FINAL_STATES
        end = last if is_last else entered[index + 1].at
        spent = (end - event.at).total_seconds()
        shown = None if is_last and (ends_run or spent <= 0) else duration(spent, fractions=True)
        found.append(StateSpan(str(event.state), since(event.at, start), shown, 0.0 if ends_run else spent / whole))
    return found


def since(moment: datetime, start: datetime) -> str:
    """`+12.3 s` after the start."""
    return "+" + duration(max((moment - start).total_seconds(), 0.0), fractions=True)


def details(data: dict[str, Any]) -> str:
    """An event's data as text: quoted lines whole, the rest as `name: value`."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and any(isinstance(item, str) and " " in item for item in value):
            parts.append("\n".join(plain(item) for item in value))
        elif isinstance(value, str) and "\n" in value:
            parts.append(plain(value))
        else:
            parts.append(f"{key}: {plain(flat(value))}")
    return "\n".join(parts)


def flat(value: Any) -> str:
    """A value of a document as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items()) or NOTHING
    if isinstance(value, (list, tuple)):
        return ", ".join(flat(item) for item in value) or NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value + 0.0:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return NOTHING if value is None else str(value)


def ordered(findings: Sequence[Finding] | None) -> list[Finding]:
    """Findings with the failed first, then what could not be evaluated."""
    rank = {"failed": 0, "not_evaluated": 1, "passed": 2}
    return sorted(findings or [], key=lambda finding: rank[finding.status])


def missing(run: RunDocuments) -> list[Missing]:
    """The documents that the run does not have."""
    recipe = run.plan.recipe
    start = f"overspan up {recipe.name if recipe.name in recipes.names() else recipe.model}"
    measure = "--concurrency 1,4,16"
    over = run.state in FINAL_STATES
    found = []
    if not run.findings:
        found.append(Missing("verify.json", "whether its answers are right", start))
    if run.bench is None:
        again = f"{start} && overspan bench {measure}"
        found.append(
            Missing("bench.json", "every measurement", again if over else f"overspan bench {run.name} {measure}")
        )
    if not run.processes:
        found.append(Missing("processes.json", "the exact commands", start))
    return found


def gpus(host: Host) -> str:
    """`4 × gb200, 186.0 GiB each`."""
    kinds = Counter((gpu.kind, gpu.size_bytes) for gpu in host.gpus)
    return ", ".join(f"{amount} × {kind}, {memory / 2**30:,.0f} GiB each" for (kind, memory), amount in kinds.items())


def legend(runs: Sequence[RunDocuments]) -> list[tuple[str, Style]]:
    """Label and style of each run."""
    return [(run.name, series_style(index)) for index, run in enumerate(runs)]


def level_legend(runs: Sequence[RunDocuments]) -> list[tuple[str, Style]]:
    """Label and style of each curve of a single run's latency charts."""
    return [(point.load, style) for point, style in shown_points(runs[0])]


@dataclass(frozen=True)
class PredictedRow:
    """What the planner says of one point beside what was measured; milliseconds, ratios are measured over predicted.

    Attributes:
        cells: in the order of PREDICTED_HEADS.
        inside: whether the measured TPOT lies in the interval; None without one.
        steady: both are of the steady window, because the server stood still in the rest.
        seen: which statistic the measured values are, and of how many requests.
        bound: what limits the point.
        basis: what the prediction stands on.
    """

    run: str
    users: int
    cells: Sequence[str]
    inside: bool | None
    steady: bool
    bound: str
    basis: str
    seen: str = ""


def predicted_rows(run: RunDocuments) -> tuple[list[PredictedRow], list[str]]:
    """A row for each point of a closed loop, and notes: why there is none, or what is not sure."""
    if run.bench is None:
        return [], []
    try:
        held = predict_measured.points(run.plan, run.bench)
        pairs = [(item, item.predicted()) for item in held]
    except OverspanError as error:
        return [], [error.what]
    columns = [
        column([one.tpot_ms for _, one in pairs]),
        [f"{one.interval.low:.3g} to {one.interval.high:.3g}" for _, one in pairs],
        column([item.tpot_ms for item, _ in pairs]),
        [_ratio(item.tpot_ms, one.tpot_ms) for item, one in pairs],
        column([one.ceiling_tpot_ms for _, one in pairs]),
        column([one.ttft_ms for _, one in pairs]),
        column([item.ttft_ms for item, _ in pairs]),
        [_ratio(item.ttft_ms, one.ttft_ms) for item, one in pairs],
    ]
    rows = []
    for (item, one), *cells in zip(pairs, *columns, strict=True):
        inside = None if item.tpot_ms is None else one.interval.low <= item.tpot_ms <= one.interval.high
        steady = one.demand.window == "steady"
        rows.append(
            PredictedRow(run.name, item.point.concurrency, cells, inside, steady, one.bound, one.basis, item.seen)
        )
    return rows, list(dict.fromkeys(note for _, one in pairs for note in one.notes))


CLOCK_HEADS = ("GPU", "SM MHz, mean", "lowest", "possible", "W, mean", "limit", "at its cap", "slowed by")


def clock_rows(run: RunDocuments) -> list[tuple[str, list[str]]]:
    """Each GPU of each point, in the order of CLOCK_HEADS; then the hosts that told nothing, with why."""
    found = []
    for point in run.points:
        for gpu in point.gpus:
            numbers = (gpu.sm_clock_mhz, gpu.lowest_sm_clock_mhz, gpu.max_sm_clock_mhz, gpu.power_w, gpu.power_limit_w)
            cap = NOTHING if gpu.at_cap_share is None else f"{gpu.at_cap_share:.0%}"
            slowed = ", ".join(f"{reason} {share:.0%}" for reason, share in gpu.slowed.items())
            cells = [f"{gpu.host} {gpu.index}", *(number(each, 0) for each in numbers), cap, slowed or NOTHING]
            found.append((point.load, cells))
        for host, why in point.gpus_unknown.items() if run.gpus_used else ():
            found.append((point.load, [host, f"not known: {why}", *[NOTHING] * (len(CLOCK_HEADS) - 2)]))
    return found


def _ratio(measured: float | None, predicted: float) -> str:
    return NOTHING if measured is None else f"{measured / predicted:.2f}"
