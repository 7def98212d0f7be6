"""The charts of a sweep: the Pareto front, latency against load, and predictions beside measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overspan.report.figures import Figure, axis, layout, safe, series_style
from overspan.report.text import figure
from overspan.schema.point import Result
from overspan.schema.statistics import pareto_front
from overspan.schema.units import count
from overspan.sweep.labels import place_labels

VIEWS: Final = {
    "output-used": ("output tokens, {}s used", "per_gpu", "output"),
    "total-used": ("input + output tokens, {}s used", "per_gpu", "total"),
    "output-reserved": ("output tokens, {}s reserved", "per_gpu_reserved", "output"),
    "total-reserved": ("input + output tokens, {}s reserved", "per_gpu_reserved", "total"),
}
"""What a GPU's tokens are: users of such charts dispute the denominator, so all of them are shown."""

_COMMAND: Final = 420
"""Characters of a command that a hover shows; all of it stands in the page."""


def unit_of(results: Sequence[Result]) -> str:
    """What rates are divided by: `GPU`, or `rank` on CPUs."""
    return next((str(result.derived["unit"]) for result in results if result.derived), "GPU")


def views(results: Sequence[Result]) -> dict[str, str]:
    """The ways to count that these results have, with their labels: a CPU's ranks are not reserved."""
    unit = unit_of(results)
    kept = {name: label for name, (label, _, _) in VIEWS.items() if unit == "GPU" or name.endswith("-used")}
    return {name: label.format(unit) for name, label in kept.items()}


def drawn_of(results: Sequence[Result]) -> list[Result]:
    """The results that have numbers; colours are counted over these."""
    return [result for result in results if result.measured is not None]


def series_of(results: Sequence[Result]) -> dict[str, int]:
    """A number for each topology and name, in their order."""
    labels = dict.fromkeys(series_name(result) for result in results)
    return {label: index for index, label in enumerate(labels)}


def series_name(result: Result) -> str:
    """`1P1D DEP4->TP4 marlin`."""
    return f"{result.point.topology} {result.point.name}".strip()


def charts(results: Sequence[Result]) -> dict[str, Figure]:
    """Every chart that the results can fill, by its id in the page."""
    measured = drawn_of(results)
    drawn = {
        "pareto": _pareto(measured),
        "load-ttft": _against_load(measured, _statistics("ttft_ms"), "TTFT, ms"),
        "load-tpot": _against_load(measured, _statistics("tpot_ms"), "TPOT, ms"),
        "roles": _against_load(measured, _roles(measured), f"Tokens per second per {unit_of(measured)}"),
        "predicted": _predicted(measured),
    }
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _groups(results: Sequence[Result]) -> Iterator[tuple[int, list[Result]]]:
    """Results of one topology and scenario, by rising users."""
    order = series_of(results)
    for label, index in order.items():
        mine = [result for result in results if series_name(result) == label]
        for scenario in dict.fromkeys(result.point.scenario for result in mine):
            held = [result for result in mine if result.point.scenario == scenario]
            yield index, sorted(held, key=lambda result: result.point.concurrency)


def _pareto(results: Sequence[Result]) -> Figure | None:
    traces = []
    for view in views(results):
        _, group, kind = VIEWS[view]
        for index, held in _groups(results):
            known = [(x, y, each) for each in held if (x := _speed(each)) and (y := each.derived[group][kind])]
            if known:
                traces.append(_trace(known, index, view))
        for scenario in dict.fromkeys(result.point.scenario for result in results):
            ok = [each for each in results if each.point.scenario == scenario and each.state == "ok"]
            front = pareto_front([(x, y) for each in ok if (x := _speed(each)) and (y := each.derived[group][kind])])
            if len(front) > 1:
                traces.append(_front(front, view, scenario))
    if not traces:
        return None
    y_axis = axis(f"Tokens per second per {unit_of(results)}", _widest(traces))
    _place(traces, logarithmic=y_axis["type"] == "log")
    x_axis = axis("Interactivity: tokens per second for each user", ())
    return {"data": traces, "layout": layout(x_axis, y_axis)}


def _widest(traces: Sequence[Figure]) -> list[float]:
    """The rates of the view that spans most: one is seen at a time, and the axis is the same for all."""
    by_view: dict[str, list[float]] = {}
    for trace in traces:
        by_view.setdefault(trace["meta"]["view"], []).extend(trace["y"])
    return max(by_view.values(), key=lambda rates: max(rates) / min(rates))


def _place(traces: Sequence[Figure], *, logarithmic: bool) -> None:
    """Labels are placed among those that are seen together: of one view and scenario."""
    labelled = [trace for trace in traces if "text" in trace]
    for seen in {tuple(trace["meta"].values()) for trace in labelled}:
        place_labels([trace for trace in labelled if tuple(trace["meta"].values()) == seen], logarithmic=logarithmic)


def _front(front: list[tuple[float, float]], view: str, scenario: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "meta": {"view": view, "scenario": scenario},
        "x": [x for x, _ in front],
        "y": [y for _, y in front],
        "hoverinfo": "skip",
        "line": {"color": "--ink-2", "dash": "dot", "width": 1.5},
    }


def _trace(known: Sequence[tuple[float, float, Result]], index: int, view: str) -> Figure:
    style = series_style(index)
    return {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": safe(series_name(known[0][2])),
        "meta": {"view": view, "scenario": known[0][2].point.scenario},
        "x": [x for x, _, _ in known],
        "y": [y for _, y, _ in known],
        "text": [str(each.point.concurrency) for _, _, each in known],
        "textfont": {"color": "--ink-2", "size": 12},
        "cliponaxis": False,
        "hoverinfo": "text",
        "hovertext": [hover(each) for _, _, each in known],
        "line": {"color": style["color"], "dash": style["dash"], "width": 1.5},
        "marker": _marker([each for _, _, each in known], style),
    }


def _marker(held: Sequence[Result], style: dict[str, str]) -> Figure:
    return {
        "color": style["color"],
        "size": 11,
        "symbol": [style["symbol"] + ("-open" if doubtful(each) else "") for each in held],
        "line": {"width": 2, "color": style["color"]},
    }


def doubtful(result: Result) -> bool:
    """Whether a point is not ok, or its numbers are the load generator's."""
    return result.state != "ok" or (result.measured is not None and result.measured.client_bound)


def hover(result: Result) -> str:
    """The point, its numbers, what was predicted, and its command."""
    point, seen = result.point, result.measured
    lines = [f"<b>{safe(point.id)}</b>, {result.state}"]
    gpus = f"{point.gpus_used} GPUs used, {point.gpus_reserved} reserved" if point.gpus_used else ""
    lines.append(", ".join(part for part in (count(point.nodes, "node"), gpus or count(point.ranks, "rank")) if part))
    if seen is not None:
        rates = result.derived["tokens_per_s"]
        shown = [f"{figure(rates[kind])} tok/s {kind}" for kind in ("output", "total") if rates.get(kind)]
        lines.append(", ".join(shown))
        for metric, name in (("ttft_ms", "TTFT"), ("tpot_ms", "TPOT")):
            times = getattr(seen, metric)
            if times.p50 is not None:
                expected = point.estimate.get(metric)
                told = f", predicted {figure(expected)}" if expected else ""
                lines.append(f"{name} {figure(times.p50)} ms p50, {figure(times.p99 or times.p50)} p99{told}")
        lines.append(f"{seen.requests.ok} of {count(seen.requests.planned, 'request')} ok")
    lines += [safe(result.reason[:200])] if result.reason else []
    command = next((each.command for each in point.commands if "frontend" not in each.process), "")
    lines.append(_wrapped(command[:_COMMAND] + (" ..." if len(command) > _COMMAND else "")))
    return "<br>".join(line for line in lines if line)


def _wrapped(text: str, width: int = 90) -> str:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    return "<br>".join(f"<span>{safe(each)}</span>" for each in [*lines, line] if each)


@dataclass(frozen=True)
class _Line:
    """One of the values that a chart draws for each point: what it is, in what unit, and how it is found."""

    name: str
    unit: str
    of: Callable[[Result], float | None]


def _statistics(metric: str) -> tuple[_Line, _Line]:
    """Median and 99th percentile of a latency."""

    def line(name: str) -> _Line:
        return _Line(name, "ms", lambda result: getattr(getattr(result.measured, metric), name))

    return line("p50"), line("p99")


def _roles(results: Sequence[Result]) -> tuple[_Line, _Line]:
    """What the GPUs of each role do; those that do both count in both."""
    unit = unit_of(results)

    def line(role: str, kind: str) -> _Line:
        def of(result: Result) -> float | None:
            roles: dict[str, dict[str, float | None]] = result.derived["per_role"]
            return roles.get(role, roles.get("aggregated", {})).get(kind)

        return _Line(kind, f"tok/s per {role} {unit}", of)

    return line("decode", "output"), line("prefill", "input")


def _against_load(results: Sequence[Result], lines: tuple[_Line, _Line], title: str) -> Figure | None:
    """Both values by users: the first as a line, the second thin and dotted."""
    traces: list[Figure] = []
    for index, held in _groups(results):
        for line, width, dash in ((lines[0], 2.0, None), (lines[1], 1.0, "dot")):
            known = [(each, value) for each in held if (value := line.of(each)) is not None]
            if not known:
                continue
            style = series_style(index)
            traces.append({
                "type": "scatter",
                "mode": "lines+markers",
                "name": f"{safe(series_name(known[0][0]))} {line.name}",
                "meta": {"scenario": known[0][0].point.scenario},
                "x": [each.point.concurrency for each, _ in known],
                "y": [value for _, value in known],
                "hoverinfo": "text",
                "hovertext": [f"{line.name} {figure(value)} {line.unit}<br>{hover(each)}" for each, value in known],
                "line": {"color": style["color"], "dash": dash or style["dash"], "width": width},
                "marker": _marker([each for each, _ in known], style) | {"size": 9 if dash is None else 5},
            })  # fmt: skip
    if not traces:
        return None
    x_axis = axis("Users at once", [float(x) for trace in traces for x in trace["x"]])
    return {"data": traces, "layout": layout(x_axis, axis(title, [y for trace in traces for y in trace["y"]]))}


def _predicted(results: Sequence[Result]) -> Figure | None:
    """Measured TPOT against predicted; on the line, the prediction was right."""
    traces: list[dict[str, Any]] = []
    for index, held in _groups(results):
        known = [
            (float(each.point.estimate["tpot_ms"]), mean, each)
            for each in held
            if "tpot_ms" in each.point.estimate and each.measured and (mean := each.measured.tpot_ms.mean)
        ]
        if known:
            traces.append({**_trace(known, index, ""), "mode": "markers"})
    if not traces:
        return None
    values = [value for trace in traces for value in (*trace["x"], *trace["y"])]
    line = [min(values) * 0.9, max(values) * 1.1]
    even = {
        "type": "scatter", "mode": "lines", "name": "as predicted", "x": line, "y": line, "hoverinfo": "skip",
        "line": {"color": "--ink-2", "dash": "dot", "width": 1.5},
    }  # fmt: skip
    traces = [{**trace, "meta": {"scenario": trace["meta"]["scenario"]}} for trace in traces]
    return {
        "data": [even, *traces],
        "layout": layout(axis("Predicted TPOT, ms", values), axis("Measured TPOT, ms", values)),
    }


def _speed(result: Result) -> float | None:
    speed: float | None = result.derived.get("interactivity")
    return speed
