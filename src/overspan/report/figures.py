"""The charts, as Plotly's JSON. Colours are names of CSS variables: the page gives them their values, light or dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, Final

from overspan.report.documents import METRICS, Curve, RunDocuments
from overspan.report.text import figure, load_of, plain
from overspan.schema.units import count
from overspan.schema.workload import BenchPoint

Figure = dict[str, Any]
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


def series_style(index: int) -> dict[str, str]:
    """Colour, dash and symbol of a run, each different so that none of them is needed to tell runs apart."""
    return {
        "color": f"--series-{index % COLOURS + 1}",
        "dash": DASHES[index // COLOURS % len(DASHES)],
        "symbol": SYMBOLS[index % len(SYMBOLS)],
    }


def level_style(index: int, of: int) -> dict[str, str]:
    """Colour and dash of one concurrency among several: a ramp from few users to many."""
    step = round(index * (LEVELS - 1) / max(of - 1, 1))
    return {"color": f"--level-{step + 1}", "dash": DASHES[index % len(DASHES)], "symbol": "line"}


def shown_levels(levels: Sequence[int]) -> list[int]:
    """At most LEVELS of the concurrencies, evenly spread, the ends kept."""
    if len(levels) <= LEVELS:
        return list(levels)
    return [levels[round(index * (len(levels) - 1) / (LEVELS - 1))] for index in range(LEVELS)]


def throughput_figure(runs: Sequence[RunDocuments]) -> Figure | None:
    """Output tokens per second against interactivity: a line a run, a dot a concurrency; None without points."""
    traces = [trace for index, run in enumerate(runs) if (trace := _throughput_trace(run, index, len(runs) > 1))]
    if not traces:
        return None
    x_axis = axis("Interactivity: tokens per second for each user", ())
    y_axis = axis("Output tokens per second, all users", ())
    return {"data": traces, "layout": layout(x_axis, y_axis)}


def _throughput_trace(run: RunDocuments, index: int, named: bool) -> Figure | None:
    drawn = [
        (x, point.output_tokens_per_s, point)
        for point in run.points
        if point.output_tokens_per_s is not None and (x := interactivity(point)) is not None
    ]
    if not drawn:
        return None
    style = series_style(index)
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": safe(run.name),
        "x": [x for x, _, _ in drawn],
        "y": [y for _, y, _ in drawn],
        "text": [load_of(point) for _, _, point in drawn],
        "textposition": "top right",
        "textfont": {"color": "--ink-2", "size": 12},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [_point_text(run, point, named) for _, _, point in drawn],
        "line": {"color": style["color"], "dash": style["dash"], "width": 2},
        "marker": {
            "color": style["color"],
            "size": 11,
            # A point that the client limited, or that lost requests, is hollow: its number is not the server's.
            "symbol": [style["symbol"] + ("-open" if is_doubtful(point) else "") for _, _, point in drawn],
            "line": {"width": 2, "color": style["color"]},
        },
    }


def is_doubtful(point: BenchPoint) -> bool:
    """Whether the load generator was the bottleneck, or requests failed."""
    return point.client_bound or point.requests.failed > 0


def _point_text(run: RunDocuments, point: BenchPoint, named: bool) -> str:
    counts = point.requests
    rate = point.output_tokens_per_s
    lines = [f"<b>{load_of(point)}</b>" + (f", {safe(run.name)}" if named else "")]
    lines += [f"{figure(rate)} tok/s out"] if rate is not None else []
    if rate is not None and run.gpus_used:
        lines.append(f"{figure(rate / run.gpus_used)} tok/s per GPU ({run.gpus_used} used)")
    speed = interactivity(point)
    lines += [f"{figure(speed)} tok/s for each user"] if speed is not None else []
    for metric in ("ttft_ms", "tpot_ms"):
        median = getattr(point, metric).p50
        lines += [f"{METRICS[metric][0]} {figure(median)} ms (p50)"] if median is not None else []
    lines.append(f"{counts.ok} of {count(counts.planned, 'request')} ok, {counts.failed} failed")
    lines += ["<b>limited by the load generator</b>"] if point.client_bound else []
    return "<br>".join(lines)


def latency_figures(runs: Sequence[RunDocuments]) -> dict[str, Figure]:
    """A cumulative distribution for each metric that was measured.

    One run: a curve a concurrency. Several: a curve a run at each concurrency, of which the page shows one at a time.
    """
    figures = {}
    for metric in METRICS:
        traces = _single_run_traces(runs[0], metric) if len(runs) == 1 else _compared_traces(runs, metric)
        if not traces:
            continue
        label, meaning = METRICS[metric]
        x_axis = axis(f"{label}, ms", (x for trace in traces for x in trace["x"]))
        y_axis = {**axis("% at or below", ()), "range": [0, 102], "tickvals": [0, 25, 50, 75, 90, 100]}
        figures[metric] = {"data": traces, "layout": layout(x_axis, y_axis), "meaning": meaning, "label": label}
    return figures


def shown_points(run: RunDocuments) -> list[BenchPoint]:
    """The points whose curves one chart shows."""
    levels = shown_levels([point.concurrency for point in run.points])
    return [point for point in run.points if point.concurrency in levels]


def _single_run_traces(run: RunDocuments, metric: str) -> list[Figure]:
    points = shown_points(run)
    styles = [level_style(index, len(points)) for index in range(len(points))]
    return [
        _curve_trace(curve, style, metric, load_of(point), point.concurrency)
        for point, style in zip(points, styles, strict=True)
        if (curve := run.curve(point, metric))
    ]


def _compared_traces(runs: Sequence[RunDocuments], metric: str) -> list[Figure]:
    chosen = default_level(runs)
    traces = []
    for index, run in enumerate(runs):
        for point in run.points:
            if curve := run.curve(point, metric):
                name = f"{safe(run.name)}, {load_of(point)}"
                trace = _curve_trace(curve, series_style(index), metric, name, point.concurrency)
                traces.append({**trace, "visible": point.concurrency == chosen})
    return traces


def levels_of(runs: Sequence[RunDocuments]) -> list[int]:
    """Every concurrency that some run was measured at, rising."""
    return sorted({point.concurrency for run in runs for point in run.points})


def default_level(runs: Sequence[RunDocuments]) -> int | None:
    """The concurrency that most runs share; the highest such."""
    of_runs = [{point.concurrency for point in run.points} for run in runs]
    return max(levels_of(runs), key=lambda level: (sum(level in own for own in of_runs), level), default=None)


def _curve_trace(curve: Curve, style: dict[str, str], metric: str, name: str, level: int) -> Figure:
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


def axis(title: str, values: Iterable[float]) -> Figure:
    """An axis: logarithmic where its values span more than a decade, else from zero."""
    known = [value for value in values if value > 0]
    ratio = max(known) / min(known) if known else 1.0
    wide = ratio >= LOG_RATIO
    # 1, 2 and 5 of each decade are enough to read a value off; over many decades they would touch.
    ticks = "D2" if ratio < MANY_DECADES else 1
    return {
        "title": {"text": title, "font": {"size": 13, "color": "--ink-2"}, "standoff": 10},
        "type": "log" if wide else "linear",
        **({"dtick": ticks, "minor": {"showgrid": False}} if wide else {"rangemode": "tozero"}),
        "gridcolor": "--grid",
        "linecolor": "--rule",
        "showline": True,
        "zeroline": False,
        "tickfont": {"size": 12, "color": "--ink-2"},
        "tickformat": ",~g",
        "automargin": True,
        "fixedrange": False,
    }


def layout(x_axis: Figure, y_axis: Figure) -> Figure:
    """What all charts share."""
    return {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "showlegend": False,
        "hovermode": "closest",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 28, "t": 22, "b": 8},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif", "color": "--ink"},
        "hoverlabel": {
            "bgcolor": "--panel",
            "bordercolor": "--rule",
            "font": {"color": "--ink", "size": 13},
            "align": "left",
        },
    }


def safe(text: str) -> str:
    """Untrusted text for Plotly, which reads a little HTML in its labels."""
    return html.escape(plain(text))
