"""Learn from runs: the constants of the predictor fitted to what was measured on this very hardware."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple

from overspan.catalog import calibration
from overspan.planner import features, fit, inputs, predict_measured
from overspan.planner.fit import MeasuredTime
from overspan.planner.predict import predict
from overspan.planner.predict_measured import Beside
from overspan.schema.errors import InputError
from overspan.schema.hardware import HardwareSpec
from overspan.schema.prediction import Calibration
from overspan.store.run_folder import RunFolder

# A point of one's own machine is believed within this, far closer than one of somebody else's sweep.
POINT_SIGMA: Final = 0.03
_MOVED: Final = 0.002  # constants that moved less than this share are left as they ship


class FittedPoint(NamedTuple):
    """One measured point, and what is predicted of it before and after the fit. Times are milliseconds."""

    point: str
    measured_tpot_ms: float
    before_tpot_ms: float
    after_tpot_ms: float
    measured_ttft_ms: float | None
    before_ttft_ms: float
    after_ttft_ms: float


class Fitted(NamedTuple):
    """The hardware with its own constants, and how far TPOT was predicted off before and is now, as a share.

    `left_out` names the runs that gave no point.
    """

    hardware: HardwareSpec
    points: list[FittedPoint]
    before: float
    after: float
    left_out: Sequence[str] = ()


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
        usable = [item for item in found if item.tpot_ms and (item.point.steady or not item.point.disturbed)]
        held += usable
        labels += [f"{run.id} at {item.point.concurrency} users" for item in usable]
        left_out += [] if usable else [run.id]
    if not held:
        raise InputError("none of these runs holds a measured point of a closed loop", next="overspan bench RUN")
    prior = calibration.of(start)
    fitted = _fitted(prior, held)
    own = {
        name: float(f"{one.value:.5g}")
        for name, one in fitted.constants.items()
        if abs(one.value - prior.constants[name].value) > _MOVED * max(prior.constants[name].value, 1e-9)
    }
    known = start.with_(constants={**start.constants, **own}, fitted_to=[*start.fitted_to, *labels])
    rows = [_row(label, item, prior, fitted) for label, item in zip(labels, held, strict=True)]
    before = fmean(abs(row.before_tpot_ms / row.measured_tpot_ms - 1) for row in rows)
    after = fmean(abs(row.after_tpot_ms / row.measured_tpot_ms - 1) for row in rows)
    return Fitted(known, rows, before, after, left_out)


def _fitted(prior: Calibration, held: Sequence[Beside]) -> Calibration:
    """TPOT first, then TTFT on top of it."""
    steps = [MeasuredTime(item.tpot_ms or 0.0, features.decode(item.case, _running(item))) for item in held]
    first = fit.fit(prior, steps, POINT_SIGMA)
    waits = [
        MeasuredTime(item.ttft_ms, _first_token(item, first))
        for item in held
        if item.ttft_ms and _running(item) == item.case.demand.concurrency  # behind a full cache it is a queue's
    ]
    return fit.fit(first, waits, POINT_SIGMA) if waits else first


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
