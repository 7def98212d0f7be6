"""What the planner says of each measured point, beside what was measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overspan.planner import predict_measured
from overspan.report.documents import RunDocuments
from overspan.report.text import NOTHING, column
from overspan.schema.errors import OverspanError

HEADS = ("TPOT predicted", "80 % interval", "measured", "ratio", "ceiling", "TTFT predicted", "measured", "ratio")


@dataclass(frozen=True)
class PredictedRow:
    """One point: cells in the order of HEADS (milliseconds; ratio is measured over predicted), and what bound it."""

    run: str
    users: int
    cells: list[str]
    inside: bool | None
    bound: str
    basis: str


def rows(run: RunDocuments) -> tuple[list[PredictedRow], list[str]]:
    """A row for each point of a closed loop, and notes: why there is none, or what is not sure."""
    if run.bench is None:
        return [], []
    try:
        held = predict_measured.points(run.plan, run.bench)
        seen = [item.predicted() for item in held]
    except OverspanError as error:
        return [], [error.what]
    cells = [
        column([one.tpot_ms for one in seen]),
        [f"{one.interval.low:.3g} to {one.interval.high:.3g}" for one in seen],
        column([item.tpot_ms for item in held]),
        _ratios([item.tpot_ms for item in held], [one.tpot_ms for one in seen]),
        column([one.ceiling_tpot_ms for one in seen]),
        column([one.ttft_ms for one in seen]),
        column([item.ttft_ms for item in held]),
        _ratios([item.ttft_ms for item in held], [one.ttft_ms for one in seen]),
    ]
    made = [
        PredictedRow(
            run.name,
            item.point.concurrency,
            [part[index] for part in cells],
            None if item.tpot_ms is None else one.interval.low <= item.tpot_ms <= one.interval.high,
            one.bound,
            one.basis,
        )
        for index, (item, one) in enumerate(zip(held, seen, strict=True))
    ]
    return made, list(dict.fromkeys(note for one in seen for note in one.notes))


def _ratios(measured: Sequence[float | None], predicted: Sequence[float]) -> list[str]:
    return [
        NOTHING if value is None else f"{value / said:.2f}" for value, said in zip(measured, predicted, strict=True)
    ]
