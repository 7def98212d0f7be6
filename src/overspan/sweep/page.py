"""The page of a sweep: every planned point, measured, failed or missing, and what it says of the ladder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from overspan.report.page import render_page
from overspan.report.text import column, figure, number
from overspan.report.view import Tile
from overspan.schema.point import Point
from overspan.schema.units import count
from overspan.sweep.figures import Drawn, charts, drawn_of, styles_of, unit_of, views
from overspan.sweep.folder import MeasuredSweep


def render_sweep(sweep: MeasuredSweep) -> str:
    """The page as one self-contained HTML file."""
    drawn = drawn_of(sweep.ended)
    unit = unit_of(drawn)
    return render_page(
        "sweep.html.j2",
        charts(drawn),
        sweep=sweep,
        headline=headline(sweep),
        tiles=tiles(sweep),
        views=views(drawn),
        unit=unit,
        scenarios={point.scenario: f"{point.scenario}: {point.isl:,} in, {point.osl:,} out" for point in sweep.points},
        legend=list(styles_of(drawn).items()),
        heads=[(name, head.format(unit)) for name, head in HEADS],
        rows=rows(sweep),
        commands={
            point.deployment: "\n".join(f"# {each.process} on {each.host}\n{each.command}" for each in point.commands)
            for point in sweep.points
        },
    )


def headline(sweep: MeasuredSweep) -> str:
    """The sweep in one sentence."""
    planned, model = count(len(sweep.points), "point"), sweep.points[0].model
    if model.startswith(("/", "./", "../", "~")):
        model = Path(model).name
    ok = [(rate, each) for each in drawn_of(sweep.ended) if each.result.state == "ok" and (rate := _rate(each))]
    if not ok:
        return f"{model}: none of {planned} is ok."
    rate, most = max(ok, key=lambda pair: pair[0])
    fastest = max((each for _, each in ok), key=lambda each: each.derived.interactivity or 0)
    users = fastest.point.concurrency
    whom = "one user" if users == 1 else f"each of {count(users, 'user')}"
    speed = f"{figure(fastest.derived.interactivity or 0)} tok/s for {whom}"
    first = (
        f"{model}: of {planned}, {most.series} gave the most, {figure(rate)} output tok/s per {most.derived.unit} "
        f"at {count(most.point.concurrency, 'user')}"
    )
    if most.series == fastest.series:
        return f"{first}, and the quickest answers, {speed}."
    return f"{first}; {fastest.series} was the quickest, {speed}."


def _rate(each: Drawn) -> float | None:
    return each.derived.per_gpu["output"]


def tiles(sweep: MeasuredSweep) -> list[Tile]:
    """How many points ended how."""
    counts = Counter(sweep.state(point) for point in sweep.points)
    planned = sum(result.measured.requests.planned for result in sweep.ended if result.measured)
    ok = sum(result.measured.requests.ok for result in sweep.ended if result.measured)
    return [
        Tile(f"{counts['ok']} of {len(sweep.points)}", "", "points ok"),
        Tile(str(counts["failed"]), "", "points failed", bad=counts["failed"] > 0),
        Tile(str(counts["missing"]), "", "points missing", bad=counts["missing"] > 0),
        Tile(f"{ok:,}", "", f"requests ok of {planned:,}", bad=ok < planned),
    ]


HEADS = [("Users", ""), ("Nodes", ""), ("GPUs", "used"), ("GPUs", "reserved"), ("Requests", "ok"),
         ("TTFT", "ms,\xa0p50"), ("TTFT", "ms,\xa0p99"), ("TPOT", "ms,\xa0p50"), ("TPOT", "ms,\xa0p99"),
         ("Interactivity", "tok/s/user"), ("Output", "tok/s"), ("Output", "tok/s per {}"), ("Prefill", "in tok/s/{}"),
         ("Decode", "out tok/s/{}"), ("Predicted", "TPOT / measured")]  # fmt: skip


@dataclass(frozen=True)
class PointRow:
    """One point in the table."""

    point: Point
    state: str
    cells: list[str]
    doubtful: bool
    remark: str


def rows(sweep: MeasuredSweep) -> list[PointRow]:
    """A row a planned point, its columns lined up."""
    columns = []
    for values in zip(*(_values(sweep, point) for point in sweep.points), strict=True):
        counts = all(value is None or isinstance(value, int) for value in values)
        columns.append([number(value, 0) for value in values] if counts else column(values))
    return [
        PointRow(
            point,
            sweep.state(point),
            [cells[index] for cells in columns],
            point.id in sweep.results and sweep.results[point.id].doubtful,
            _remark(sweep, point),
        )
        for index, point in enumerate(sweep.points)
    ]


def _values(sweep: MeasuredSweep, point: Point) -> list[float | None]:
    result = sweep.results.get(point.id)
    seen, derived = (result.measured, result.derived) if result else (None, None)
    known: list[float | None] = [point.concurrency, point.nodes, point.gpus_used or None, point.gpus_reserved or None]
    if seen is None or derived is None:
        return [*known, *[None] * (len(HEADS) - len(known))]
    return [
        *known,
        seen.requests.ok,
        seen.ttft_ms.p50,
        seen.ttft_ms.p99,
        seen.tpot_ms.p50,
        seen.tpot_ms.p99,
        derived.interactivity,
        seen.output_tokens_per_s,
        derived.per_gpu["output"],
        derived.of_role("prefill", "input"),
        derived.of_role("decode", "output"),
        derived.predicted_to_measured.get("tpot_ms"),
    ]


def _remark(sweep: MeasuredSweep, point: Point) -> str:
    result = sweep.results.get(point.id)
    if result is None:
        return "; ".join(point.notes)
    seen = result.measured
    doubts = ["client-bound"] if seen and seen.client_bound else []
    doubts += ["disturbed: the server stood still at times"] if seen and seen.disturbed else []
    return "; ".join([*([result.reason] if result.reason else []), *doubts, *point.notes])
