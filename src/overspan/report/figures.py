"""The charts, as Plotly's JSON. Colours are names of CSS variables: the page gives them their values, light or dark."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from overspan.report.documents import METRICS, Curve, RunDocuments
from overspan.report.text import figure, plain
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint

Figure = dict[str, Any]
"""A chart, a trace or an axis, as Plotly's JSON has it."""
Style = dict[str, str]
"""The `color`, `dash` and `symbol` of a series."""
SUMMARY_POINTS: Final = 4
"""Percentiles of a summary: p50, p90, p95, p99."""

DASHES: Final = ("solid", "dash", "dot", "dashdot")
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon")
COLOURS: Final = 8
"""Colours that a colour-blind eye tells apart; further runs reuse them with another dash."""
LEVELS: Final = 7
"""Steps of the ramp that marks concurrency: the most curves that one chart can show readably."""
LOG_RATIO: Final = 12.0
"""A latency axis whose largest value is this many times its smallest is logarithmic."""
MANY_DECADES: Final = 500.0
"""From this ratio on only powers of ten are marked: labels between them would touch in a narrow chart."""


def interactivity(point: BenchPoint) -> float | None:
    """Tokens per second that one user sees: 1000 over the median TPOT in ms."""
    return 1000.0 / point.tpot_ms.p50 if point.tpot_ms.p50 else None


def series_style(index: int) -> Style:
    """Colour, dash and symbol of a run, each different so that none of them is needed to tell runs apart."""
    return {
        "color": f"--series-{index % COLOURS + 1}",
        "dash": DASHES[index // COLOURS % len(DASHES)],
        "symbol": SYMBOLS[index % len(SYMBOLS)],
    }


def level_style(index: int, of: int) -> Style:
    """Colour and dash of one concurrency among several: a ramp from few users to many."""
    step = round(index * (LEVELS - 1) / max(of - 1, 1))
    return {"color": f"--level-{step + 1}", "dash": DASHES[index % len(DASHES)], "symbol": "line"}


def shown_points(run: RunDocuments) -> list[tuple[BenchPoint, Style]]:
    """The points whose curves one chart shows, with their styles: LEVELS at most, evenly spread, the ends kept."""
    points = run.points
    if len(points) > LEVELS:
        points = [points[round(index * (len(points) - 1) / (LEVELS - 1))] for index in range(LEVELS)]
    return [(point, level_style(index, len(points))) for index, point in enumerate(points)]


def throughput_figure(runs: Sequence[RunDocuments]) -> Figure | None:
    """Output tokens per second against interactivity: a line a run, a dot a concurrency; None without points."""
    traces = []
    for index, run in enumerate(runs):
        dots = [dot for point in run.points if (dot := _dot(run, point, named=len(runs) > 1))]
        if dots:
            traces.append(trace(run.name, dots, series_style(index)) | {"textposition": "top right"})
    x_axis = axis("Interactivity: tokens per second for each user", ())
    return chart(traces, x_axis, axis("Output tokens per second, all users", ())) if traces else None


def _dot(run: RunDocuments, point: BenchPoint, *, named: bool) -> Dot | None:
    rate, speed, counts = point.output_tokens_per_s, interactivity(point), point.requests
    if rate is None or speed is None:
        return None
    lines = [f"<b>{point.load}</b>" + (f", {safe(run.name)}" if named else ""), f"{figure(rate)} tok/s out"]
    if run.gpus_used:
        lines.append(f"{figure(rate / run.gpus_used)} tok/s per GPU ({run.gpus_used} used)")
    lines.append(f"{figure(speed)} tok/s for each user")
    for metric in ("ttft_ms", "tpot_ms"):
        median = getattr(point, metric).p50
        lines += [f"{METRICS[metric][0]} {figure(median)} ms (p50)"] if median is not None else []
    lines.append(f"{counts.ok} of {count(counts.planned, 'request')} ok, {counts.failed} failed")
    lines += ["<b>limited by the load generator</b>"] if point.client_bound else []
    return Dot(speed, rate, "<br>".join(lines), point.client_bound or counts.failed > 0, point.load)


def latency_figures(runs: Sequence[RunDocuments]) -> dict[str, Figure]:
    """A cumulative distribution for each metric that was measured.

    One run: a curve a concurrency. Several: a curve a run at each concurrency, of which the page shows one at a time.
    """
    figures = {}
    for metric, (label, meaning) in METRICS.items():
        traces = _single_run_traces(runs[0], metric) if len(runs) == 1 else _compared_traces(runs, metric)
        if traces:
            x_axis = axis(f"{label}, ms", (x for each in traces for x in each["x"]))
            y_axis = {**axis("% at or below", ()), "range": [0, 102], "tickvals": [0, 25, 50, 75, 90, 100]}
            figures[metric] = {**chart(traces, x_axis, y_axis), "meaning": meaning, "label": label}
    return figures


def _single_run_traces(run: RunDocuments, metric: str) -> list[Figure]:
    return [
        _curve_trace(curve, style, metric, point.load, point.concurrency)
        for point, style in shown_points(run)
        if (curve := run.curve(point, metric))
    ]


def _compared_traces(runs: Sequence[RunDocuments], metric: str) -> list[Figure]:
    chosen = default_level(runs)
    return [
        _curve_trace(curve, series_style(index), metric, f"{safe(run.name)}, {point.load}", point.concurrency)
        | {"visible": point.concurrency == chosen}
        for index, run in enumerate(runs)
        for point in run.points
        if (curve := run.curve(point, metric))
    ]


def levels_of(runs: Sequence[RunDocuments]) -> list[int]:
    """Every concurrency that some run was measured at, rising."""
    return sorted({point.concurrency for run in runs for point in run.points})


def default_level(runs: Sequence[RunDocuments]) -> int | None:
    """The concurrency that most runs share; the highest such."""
    of_runs = [{point.concurrency for point in run.points} for run in runs]
    return max(levels_of(runs), key=lambda level: (sum(level in own for own in of_runs), level), default=None)


def _curve_trace(curve: Curve, style: Style, metric: str, name: str, level: int) -> Figure:
    label = METRICS[metric][0]
    return {
        "type": "scatter",
        # The few percentiles of a summary are marked: between them the line is only a guide for the eye.
        "mode": "lines+markers" if len(curve) <= SUMMARY_POINTS else "lines",
        "name": name,
        "meta": {"users": level},
        "x": [value for value, _ in curve],
        "y": [percent for _, percent in curve],
        "hoverinfo": "text",
        "hovertext": [
            f"<b>{name}</b><br>{percent:.3g} % within {figure(value)} ms {label}" for value, percent in curve
        ],
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {"color": style["color"], "size": 5},
    }


@dataclass(frozen=True)
class Dot:
    """A measured point in a chart; a hollow one is doubtful: its number is not the server's."""

    x: float
    y: float
    hover: str
    hollow: bool
    label: str = ""


def trace(name: str, dots: Sequence[Dot], style: Style, *, width: float = 2.0, size: int = 11) -> Figure:
    """Dots joined by a line, with their labels where they have some.

    Args:
        name: of the series; untrusted.
        dots: in the order of the line.
        style: of the series.
        width: of the line, pixels.
        size: of a dot, pixels.
    """
    labelled = any(dot.label for dot in dots)
    labels = {"text": [dot.label for dot in dots], **_template()["labels"]} if labelled else {}
    return {
        "type": "scatter",
        "mode": "lines+markers+text" if labelled else "lines+markers",
        "name": safe(name),
        "x": [dot.x for dot in dots],
        "y": [dot.y for dot in dots],
        **labels,
        "hoverinfo": "text",
        "hovertext": [dot.hover for dot in dots],
        "line": {"color": style["color"], "dash": style["dash"], "width": width},
        "marker": {
            "color": style["color"],
            "size": size,
            "symbol": [style["symbol"] + ("-open" if dot.hollow else "") for dot in dots],
            "line": {"width": 2, "color": style["color"]},
        },
    }


def guide(name: str, points: Sequence[tuple[float, float]]) -> Figure:
    """A dotted line to compare dots with."""
    return {"name": name, "x": [x for x, _ in points], "y": [y for _, y in points], **_template()["guide"]}


def axis(title: str, values: Iterable[float]) -> Figure:
    """An axis: logarithmic where its values span more than a decade, else from zero."""
    known = [value for value in values if value > 0]
    ratio = max(known) / min(known) if known else 1.0
    made: Figure = _template()["axis"]
    made["title"]["text"] = title
    if ratio < LOG_RATIO:
        return made | {"type": "linear", "rangemode": "tozero"}
    # 1, 2 and 5 of each decade are enough to read a value off; over many decades they would touch.
    ticks = "D2" if ratio < MANY_DECADES else 1
    return made | {"type": "log", "dtick": ticks, "minor": {"showgrid": False}}


def chart(traces: Sequence[Figure], x_axis: Figure, y_axis: Figure) -> Figure:
    """A chart, with what all of them share."""
    return {"data": list(traces), "layout": {"xaxis": x_axis, "yaxis": y_axis, **_template()["layout"]}}


def _template() -> Figure:
    """What stands in every chart: a new copy of chart.json."""
    read: Figure = json.loads((Path(__file__).parent / "templates" / "chart.json").read_bytes())
    return read


def safe(text: str) -> str:
    """Untrusted text for Plotly, which reads a little HTML in its labels."""
    return html.escape(plain(text))
