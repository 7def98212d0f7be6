"""The charts of a sweep: the Pareto front, latency against load, and predictions beside measurements."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from overspan.report.figures import Dot, Figure, Style, axis, chart, guide, safe, series_style, trace
from overspan.report.text import figure
from overspan.schema.point import Derived, Point, Rates, Result, TokenKind
from overspan.schema.statistics import pareto_front
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint
from overspan.sweep.labels import place_labels


@dataclass(frozen=True)
class View:
    """A way to count what a GPU does. Users of such charts dispute the denominator, so all of them are shown."""

    label: str
    rates: Callable[[Derived], Rates]
    kind: TokenKind


VIEWS: Final[Mapping[str, View]] = {
    "output-used": View("output tokens, {}s used", lambda each: each.per_gpu, "output"),
    "total-used": View("input + output tokens, {}s used", lambda each: each.per_gpu, "total"),
    "output-reserved": View("output tokens, {}s reserved", lambda each: each.per_gpu_reserved, "output"),
    "total-reserved": View("input + output tokens, {}s reserved", lambda each: each.per_gpu_reserved, "total"),
}

_COMMAND: Final = 420
"""Characters of a command that a hover shows; all of it stands in the page."""


@dataclass(frozen=True)
class Drawn:
    """A result that has numbers, ok or not."""

    result: Result
    point: Point
    seen: BenchPoint
    derived: Derived

    @property
    def series(self) -> str:
        """`1P1D DEP4->TP4 marlin`: one colour."""
        return f"{self.point.topology} {self.point.name}".strip()


def drawn_of(results: Sequence[Result]) -> list[Drawn]:
    """The results that have numbers; colours are counted over these."""
    return [
        Drawn(result, result.point, result.measured, result.derived)
        for result in results
        if result.measured is not None and result.derived is not None
    ]


def unit_of(drawn: Sequence[Drawn]) -> str:
    """What rates are divided by: `GPU`, or `rank` on CPUs."""
    return drawn[0].derived.unit if drawn else "GPU"


def views(drawn: Sequence[Drawn]) -> dict[str, str]:
    """The ways to count that these results have, with their labels: a CPU's ranks are not reserved."""
    unit = unit_of(drawn)
    return {name: view.label.format(unit) for name, view in VIEWS.items() if unit == "GPU" or name.endswith("-used")}


def styles_of(drawn: Sequence[Drawn]) -> dict[str, Style]:
    """The style of each series, in their order."""
    return {name: series_style(index) for index, name in enumerate(dict.fromkeys(each.series for each in drawn))}


def charts(drawn: Sequence[Drawn]) -> dict[str, Figure]:
    """Every chart that the results can fill, by its id in the page."""
    made = {
        "pareto": _pareto(drawn),
        "load-ttft": _against_load(drawn, _statistics("ttft_ms"), "TTFT, ms"),
        "load-tpot": _against_load(drawn, _statistics("tpot_ms"), "TPOT, ms"),
        "roles": _against_load(drawn, _roles(unit_of(drawn)), f"Tokens per second per {unit_of(drawn)}"),
        "predicted": _predicted(drawn),
    }
    return {name: found for name, found in made.items() if found is not None}


def _groups(drawn: Sequence[Drawn]) -> Iterator[tuple[Style, list[Drawn]]]:
    """Results of one series and scenario, by rising users."""
    for series, style in styles_of(drawn).items():
        mine = [each for each in drawn if each.series == series]
        for scenario in dict.fromkeys(each.point.scenario for each in mine):
            held = [each for each in mine if each.point.scenario == scenario]
            yield style, sorted(held, key=lambda each: each.point.concurrency)


def _pareto(drawn: Sequence[Drawn]) -> Figure | None:
    traces: list[Figure] = []
    for name in views(drawn):
        view = VIEWS[name]

        def place(each: Drawn, view: View = view) -> tuple[float, float] | None:
            rate = view.rates(each.derived)[view.kind]
            return (each.derived.interactivity, rate) if each.derived.interactivity and rate else None

        for style, held in _groups(drawn):
            dots = [_dot(each, *at, str(each.point.concurrency)) for each in held if (at := place(each))]
            traces += _traces(held[0], dots, style, view=name)
        for scenario in dict.fromkeys(each.point.scenario for each in drawn):
            ok = [each for each in drawn if each.point.scenario == scenario and each.result.state == "ok"]
            front = pareto_front(at for each in ok if (at := place(each)))
            if len(front) > 1:
                traces.append({**guide("front", front), "meta": {"view": name, "scenario": scenario}})
    if not traces:
        return None
    y_axis = axis(f"Tokens per second per {unit_of(drawn)}", _widest(traces))
    _place(traces, logarithmic=y_axis["type"] == "log")
    return chart(traces, axis("Interactivity: tokens per second for each user", ()), y_axis)


def _dot(each: Drawn, x: float, y: float, label: str = "", says: str = "") -> Dot:
    return Dot(x, y, says + hover(each), each.result.doubtful, label)


def _traces(first: Drawn, dots: Sequence[Dot], style: Style, *, name: str = "", **meta: str) -> list[Figure]:
    """A trace of one series and scenario; none without dots."""
    if not dots:
        return []
    made = trace(f"{first.series} {name}".strip(), dots, style, width=1.5)
    return [{**made, "meta": {**meta, "scenario": first.point.scenario}}]


def _widest(traces: Sequence[Figure]) -> list[float]:
    """The rates of the view that spans most: one is seen at a time, and the axis is the same for all."""
    by_view: dict[str, list[float]] = {}
    for each in traces:
        by_view.setdefault(each["meta"]["view"], []).extend(each["y"])
    return max(by_view.values(), key=lambda rates: max(rates) / min(rates))


def _place(traces: Sequence[Figure], *, logarithmic: bool) -> None:
    """Labels are placed among those that are seen together: of one view and scenario."""
    labelled = [each for each in traces if "text" in each]
    for seen in {tuple(each["meta"].values()) for each in labelled}:
        place_labels([each for each in labelled if tuple(each["meta"].values()) == seen], logarithmic=logarithmic)


def hover(each: Drawn) -> str:
    """The point, its numbers, what was predicted, and its command."""
    point, seen, rates = each.point, each.seen, each.derived.tokens_per_s
    gpus = f"{point.gpus_used} GPUs used, {point.gpus_reserved} reserved" if point.gpus_used else ""
    lines = [
        f"<b>{safe(point.id)}</b>, {each.result.state}",
        f"{count(point.nodes, 'node')}, {gpus or count(point.ranks, 'rank')}",
        ", ".join(f"{figure(rate)} tok/s {kind}" for kind in ("output", "total") if (rate := rates.get(kind))),
    ]
    for metric, name in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT")):
        times = getattr(seen, metric)
        if times.p50 is not None:
            expected = getattr(point.estimate, metric)
            told = f", predicted {figure(expected)}" if expected else ""
            lines.append(f"{name} {figure(times.p50)} ms p50, {figure(times.p99 or times.p50)} p99{told}")
    lines += [f"{seen.requests.ok} of {count(seen.requests.planned, 'request')} ok", safe(each.result.reason[:200])]
    command = next((held.command for held in point.commands if "frontend" not in held.process), "")
    short = command[:_COMMAND] + (" ..." if len(command) > _COMMAND else "")
    lines += [
        f"<span>{safe(line)}</span>"
        for line in textwrap.wrap(short, 91, break_long_words=False, break_on_hyphens=False)
    ]
    return "<br>".join(line for line in lines if line)


@dataclass(frozen=True)
class _Value:
    """One of the values that a chart draws for each point: what it is, in what unit, and how it is found."""

    name: str
    unit: str
    of: Callable[[Drawn], float | None]


def _statistics(metric: str) -> tuple[_Value, _Value]:
    """Median and 99th percentile of a latency."""
    p50, p99 = (attrgetter(f"seen.{metric}.{name}") for name in ("p50", "p99"))
    return _Value("p50", "ms", p50), _Value("p99", "ms", p99)


def _roles(unit: str) -> tuple[_Value, _Value]:
    """What the GPUs of each role do; those that do both count in both."""
    return (
        _Value("output", f"tok/s per decode {unit}", lambda each: each.derived.of_role("decode", "output")),
        _Value("input", f"tok/s per prefill {unit}", lambda each: each.derived.of_role("prefill", "input")),
    )


def _against_load(drawn: Sequence[Drawn], values: tuple[_Value, _Value], title: str) -> Figure | None:
    """Both values by users: the first as a line, the second thin and dotted."""
    traces: list[Figure] = []
    for style, held in _groups(drawn):
        for value, width, size, dash in ((values[0], 2.0, 9, style["dash"]), (values[1], 1.0, 5, "dot")):
            dots = [
                _dot(each, each.point.concurrency, seen, says=f"{value.name} {figure(seen)} {value.unit}<br>")
                for each in held
                if (seen := value.of(each)) is not None
            ]
            for made in _traces(held[0], dots, style, name=value.name):
                made["line"] |= {"dash": dash, "width": width}
                made["marker"]["size"] = size
                traces.append(made)
    x_axis = axis("Users at once", [float(x) for each in traces for x in each["x"]])
    return chart(traces, x_axis, axis(title, [y for each in traces for y in each["y"]])) if traces else None


def _predicted(drawn: Sequence[Drawn]) -> Figure | None:
    """Measured TPOT against predicted; on the line, the prediction was right."""
    traces: list[Figure] = []
    for style, held in _groups(drawn):
        dots = [
            _dot(each, expected, mean, str(each.point.concurrency))
            for each in held
            if (expected := each.point.estimate.tpot_ms) is not None and (mean := each.seen.tpot_ms.mean)
        ]
        traces += [{**made, "mode": "markers"} for made in _traces(held[0], dots, style)]
    if not traces:
        return None
    values = [value for each in traces for value in (*each["x"], *each["y"])]
    ends = [(end, end) for end in (min(values) * 0.9, max(values) * 1.1)]
    traces.insert(0, guide("as predicted", ends))
    return chart(traces, axis("Predicted TPOT, ms", values), axis("Measured TPOT, ms", values))
