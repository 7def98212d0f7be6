"""The charts of a sweep: the Pareto front, latency against load, and predictions beside measurements.

The label of each dot stands so that labels cover neither each other nor other dots.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final

from overspan.report.figures import Dot, Figure, Style, axis, chart, guide, safe, series_style, trace
from overspan.report.text import figure
from overspan.schema.point import Derived, Point, PointResult, Rates, TokenKind
from overspan.schema.statistics import pareto_front
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint


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
WIDTH, HEIGHT = 900.0, 300.0
"""Pixels of the plot's inside at the page's full width. Source: report.css (70rem wide, 24rem high), less margins."""

_DOT: Final = 7.0
_GLYPH: Final = (7.0, 14.0)
"""Width and height of a digit at 12 px."""

_SIDES: Final = {
    "top right": (1, -1),
    "bottom right": (1, 1),
    "top left": (-1, -1),
    "bottom left": (-1, 1),
    "top center": (0, -1),
    "bottom center": (0, 1),
}

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Drawn:
    """A result that has numbers, ok or not."""

    result: PointResult
    point: Point
    seen: BenchPoint
    derived: Derived

    @property
    def series(self) -> str:
        """`1P1D DEP4->TP4 marlin`: one colour."""
        return f"{self.point.topology} {self.point.name}".strip()


def drawn_of(results: Sequence[PointResult]) -> list[Drawn]:
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
    """Set `textposition` of every label: they are placed among those seen together, of one view and scenario."""
    together: dict[tuple[str, ...], list[Figure]] = {}
    for each in traces:
        if "text" in each:
            together.setdefault(tuple(each["meta"].values()), []).append(each)
    for seen in together.values():
        dots = [at for each in seen for at in zip(each["x"], each["y"], strict=True)]
        lengths = [len(text) for each in seen for text in each["text"]]
        sides = iter(places(_pixels(dots, logarithmic=logarithmic), lengths))
        for each in seen:
            each["textposition"] = list(islice(sides, len(each["x"])))


def hover(each: Drawn) -> str:
    """The point, its numbers, what was predicted, and its command."""
    point, seen, rates = each.point, each.seen, each.derived.tokens_per_s
    gpus = f"{count(point.gpus_used, 'GPU')} used, {point.gpus_reserved} reserved" if point.gpus_used else ""
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


def places(dots: Sequence[tuple[float, float]], lengths: Sequence[int]) -> list[str]:
    """A side for the label of each dot, in pixels from the top left: the first that covers least.

    Args:
        dots: where they are.
        lengths: characters of their labels.
    """
    marks = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots]
    taken: list[Box] = []
    chosen = []
    for (x, y), length, own in zip(dots, lengths, marks, strict=True):
        others = [*taken, *(mark for mark in marks if mark is not own)]
        boxes = {side: _box(x, y, length, direction) for side, direction in _SIDES.items()}
        best = min(boxes, key=lambda side: sum(_overlap(boxes[side], other) for other in others))
        taken.append(boxes[best])
        chosen.append(best)
    return chosen


def _pixels(points: Sequence[tuple[float, float]], *, logarithmic: bool) -> list[tuple[float, float]]:
    highs = [math.log10(y) if logarithmic else y for _, y in points]
    right, top = max(x for x, _ in points), max(highs)
    low = min(highs) if logarithmic else 0.0
    span = (top - low) or 1.0
    return [
        (x / (right or 1.0) * WIDTH, (top - high) / span * HEIGHT) for (x, _), high in zip(points, highs, strict=True)
    ]


def _box(x: float, y: float, length: int, direction: tuple[int, int]) -> Box:
    width, height = _GLYPH[0] * length, _GLYPH[1]
    across, down = direction
    left = x - width / 2 + across * (width / 2 + _DOT / 2)
    top = y - height / 2 + down * (height / 2 + _DOT)
    return left, top, left + width, top + height


def _overlap(one: Box, other: Box) -> float:
    """The area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)
