"""Learn from runs: the constants of the predictor fitted to what was measured on this very hardware."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final, Literal, NamedTuple

from overspan.catalog import calibration
from overspan.catalog import hardware as kinds
from overspan.planner import features, fit, inputs, predict_measured
from overspan.planner.fit import MeasuredTime
from overspan.planner.predict import Z80, predict
from overspan.planner.predict_measured import Beside
from overspan.schema.errors import InputError, UnknownName
from overspan.schema.hardware import HardwareSpec
from overspan.schema.prediction import Calibration
from overspan.store.run_folder import RunFolder

# A point of one's own machine is believed within this, far closer than one of somebody else's sweep.
POINT_SIGMA: Final = 0.03
_MOVED: Final = 0.002  # constants that moved less than this share are left as they ship
_FOLDS: Final = 5
Metric = Literal["TPOT", "TTFT"]


class FittedPoint(NamedTuple):
    """One measured point, and what is predicted of it before and after the fit. Times are milliseconds."""

    point: str
    measured_tpot_ms: float
    before_tpot_ms: float
    after_tpot_ms: float
    measured_ttft_ms: float | None
    before_ttft_ms: float
    after_ttft_ms: float


class HeldOut(NamedTuple):
    """Mean errors, as shares, on points that a fit to the others did not see."""

    points: int
    tpot_before: float
    tpot_after: float
    ttft_before: float | None
    ttft_after: float | None

    def worse(self) -> list[Metric]:
        """Of what a fit predicts the unseen no better than before."""
        found: list[Metric] = ["TPOT"] if self.tpot_after >= self.tpot_before else []
        waits = self.ttft_before is not None and self.ttft_after is not None and self.ttft_after >= self.ttft_before
        return [*found, "TTFT"] if waits else found


class Fitted(NamedTuple):
    """The hardware with its own constants, and how far TPOT was predicted off before and is now, as a share.

    `left_out` names the runs that gave no point. `held_out` is None where there was one point only. `kept` says in
    sentences what stays as it was, because what was measured or fitted predicts worse.
    """

    hardware: HardwareSpec
    points: list[FittedPoint]
    before: float
    after: float
    left_out: Sequence[str] = ()
    held_out: HeldOut | None = None
    kept: Sequence[str] = ()


def from_runs(runs: Sequence[RunFolder], hardware: HardwareSpec | None = None) -> Fitted:
    """Fit to every point of some runs, one to five of them as a rule.

    Args:
        runs: measured runs, all on one kind of hardware.
        hardware: what to start from; the hardware of the first run's inventory where not given.

    Raises:
        InputError: nothing was measured that the planner could predict, or the runs are of two kinds of hardware.
    """
    plans = [run.plan() for run in runs]
    kinds = {inputs.hardware_of(plan.inventory).name for plan in plans}
    if len(kinds) > 1:
        raise InputError(f"the runs are of {', '.join(sorted(kinds))}", next="one `overspan calibrate --from` for each")
    start = hardware or inputs.hardware_of(plans[0].inventory)
    held: list[Beside] = []
    labels: list[str] = []
    left_out: list[str] = []
    for run, plan in zip(runs, plans, strict=True):
        bench = run.bench()
        found = predict_measured.points(plan, bench, start) if bench else []
        # The steady window is without the times in which the server stood still; the whole point is not.
        usable = [item for item in found if item.tpot_ms and (item.point.settled or not item.point.disturbed)]
        held += usable
        labels += [f"{run.id} at {item.point.load} ({item.seen})" for item in usable]
        left_out += [] if usable else [run.id]
    if not held:
        raise InputError("none of these runs holds a measured point of a closed loop", next="overspan bench RUN")
    start, kept = _better_of(start, held)
    held = [item._replace(case=item.case._replace(hardware=start)) for item in held]
    prior = calibration.of(start)
    what, unseen, stay = _that_help(prior, held)
    kept += stay
    fitted = _fitted(prior, held, what)
    own = {
        name: float(f"{one.value:.5g}")
        for name, one in fitted.constants.items()
        if abs(one.value - prior.constants[name].value) > _MOVED * max(prior.constants[name].value, 1e-9)
    }
    known = start.with_(constants={**start.constants, **own}, fitted_to=[*start.fitted_to, *(labels if own else [])])
    rows = [_row(label, item, prior, fitted) for label, item in zip(labels, held, strict=True)]
    known = known.with_(**_scatter(rows, unseen))
    before = fmean(abs(row.before_tpot_ms / row.measured_tpot_ms - 1) for row in rows)
    after = fmean(abs(row.after_tpot_ms / row.measured_tpot_ms - 1) for row in rows)
    return Fitted(known, rows, before, after, left_out, unseen, kept)


def _scatter(rows: Sequence[FittedPoint], unseen: HeldOut | None) -> dict[str, float]:
    """How wide intervals must be to hold every point that was fitted to, and the usual error of one that was not.

    Wider with few points, as a prediction interval is: by sqrt(1 + 1/n).
    """
    few = math.sqrt(1 + 1 / len(rows))

    def wide(pairs: Sequence[tuple[float, float]], other: float | None) -> float:
        own = max((abs(math.log(seen / said)) for seen, said in pairs if seen > 0 and said > 0), default=0.0)
        return float(f"{max(own, other or 0.0) / Z80 * few:.3g}")

    tpot = [(row.measured_tpot_ms, row.after_tpot_ms) for row in rows]
    ttft = [(row.measured_ttft_ms or 0.0, row.after_ttft_ms) for row in rows]
    held_out = (unseen.tpot_after, unseen.ttft_after) if unseen else (None, None)
    return {"scatter": wide(tpot, held_out[0]), "ttft_scatter": wide(ttft, held_out[1])}


def _better_of(start: HardwareSpec, held: Sequence[Beside]) -> tuple[HardwareSpec, list[str]]:
    """Hardware that `overspan calibrate` measured, with the catalogue's number wherever that predicts TPOT nearer."""
    try:
        known = kinds.find(start.name.removeprefix("my-")) if start.name.startswith("my-") else start
    except UnknownName:
        return start, []
    kept = []
    for field in ("bandwidth", "rates", "within", "launch"):
        if getattr(start, field) == getattr(known, field):
            continue
        other = start.with_(**{field: getattr(known, field)})
        mine, theirs = _error(start, held), _error(other, held)
        if theirs < mine:
            start = other
            kept.append(
                f"{field} is the catalogue's again: error of TPOT {theirs:.1%}, with what was measured {mine:.1%}"
            )
    return start, kept


def _error(hardware: HardwareSpec, held: Sequence[Beside]) -> float:
    """Mean error of TPOT on some points with some hardware, as a share."""
    constants = calibration.of(hardware)
    cases = [item._replace(case=item.case._replace(hardware=hardware)) for item in held]
    return fmean(
        abs(predict(item.case, constants, item.capacity).tpot_ms / (item.tpot_ms or 1.0) - 1) for item in cases
    )


def _that_help(prior: Calibration, held: Sequence[Beside]) -> tuple[list[Metric], HeldOut | None, list[str]]:
    """What to fit: only that of which a fit to some points predicts the others nearer; and sentences on the rest."""
    what: list[Metric] = ["TPOT", "TTFT"]
    if len(held) < 2:
        return what, None, []
    unseen, stay = _held_out(prior, held, what), []
    for name in list(what):
        if name in unseen.worse():
            before, after = unseen[1:3] if name == "TPOT" else unseen[3:5]
            stay.append(
                f"constants of {name} stay as they were: on points held out {before:.1%} off, fitted {after:.1%}"
            )
            what.remove(name)
            unseen = _held_out(prior, held, what)
    return what, unseen, stay


def _held_out(prior: Calibration, held: Sequence[Beside], what: Sequence[Metric]) -> HeldOut:
    """Each point is predicted by a fit to others: to all of them, or to four fifths."""
    folds = min(_FOLDS, len(held))
    rows = []
    for fold in range(folds):
        fitted = _fitted(prior, [item for index, item in enumerate(held) if index % folds != fold], what)
        rows += [_row("", item, prior, fitted) for item in held[fold::folds]]
    tpot = [(row.before_tpot_ms, row.after_tpot_ms, row.measured_tpot_ms) for row in rows]
    ttft = [(row.before_ttft_ms, row.after_ttft_ms, row.measured_ttft_ms) for row in rows if row.measured_ttft_ms]
    before, after = (fmean(abs(row[index] / row[2] - 1) for row in tpot) for index in (0, 1))
    waits = [fmean(abs(row[index] / row[2] - 1) for row in ttft) if ttft else None for index in (0, 1)]
    return HeldOut(len(rows), before, after, *waits)


def _fitted(prior: Calibration, held: Sequence[Beside], what: Sequence[Metric]) -> Calibration:
    """TPOT first, then TTFT on top of it."""
    steps = [MeasuredTime(item.tpot_ms or 0.0, features.decode(item.case, _running(item))) for item in held]
    first = fit.fit(prior, steps, POINT_SIGMA) if "TPOT" in what else prior
    waits = [
        MeasuredTime(item.ttft_ms, _first_token(item, first))
        for item in held
        if item.ttft_ms and _running(item) == item.case.demand.concurrency  # behind a full cache it is a queue's
    ]
    return fit.fit(first, waits, POINT_SIGMA) if waits and "TTFT" in what else first


def _first_token(item: Beside, constants: Calibration) -> dict[str, float]:
    tpot = predict(item.case, constants, item.capacity).tpot_ms
    prefill = features.prefill_ms(item.case, {name: one.value for name, one in constants.constants.items()})
    return features.first_token(item.case, _running(item), tpot, prefill)


def _running(item: Beside) -> float:
    return min(float(item.case.demand.concurrency), item.capacity * item.case.layout.dp)


def _row(label: str, item: Beside, prior: Calibration, fitted: Calibration) -> FittedPoint:
    before, after = (predict(item.case, held, item.capacity) for held in (prior, fitted))
    tpot = item.tpot_ms or 0.0, before.tpot_ms, after.tpot_ms
    return FittedPoint(label, *tpot, item.ttft_ms, before.ttft_ms, after.ttft_ms)
