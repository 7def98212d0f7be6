"""The constants of the predictor: what was known before any fit, and the fit to every measured point that ships."""

from __future__ import annotations

import functools

from overspan.catalog import files
from overspan.schema.errors import RecipeError
from overspan.schema.hardware import HardwareSpec
from overspan.schema.prediction import Calibration
from overspan.schema.yamlio import make, plain

FITTED = "fitted.yaml"


@functools.lru_cache(maxsize=1)
def priors() -> Calibration:
    """What is known of each constant before a fit, with its source and how sure it is."""
    file = "priors.yaml"
    return make(Calibration, plain(files.text(file)), file)


@functools.lru_cache(maxsize=1)
def shipped() -> Calibration:
    """The constants that predictions use: the priors, fitted to benchmarks/data.

    Raises:
        RecipeError: the file of fitted values names a constant that has no prior.
    """
    data = plain(files.text(FITTED))
    known = priors()
    unknown = set(data["values"]) - set(known.constants)
    if unknown:
        raise RecipeError(f"{FITTED}: {', '.join(sorted(unknown))} has no prior")
    constants = {
        name: held.with_(value=float(data["values"].get(name, held.value))) for name, held in known.constants.items()
    }
    return known.with_(constants=constants, source=data["source"])


def of(hardware: HardwareSpec) -> Calibration:
    """The constants for some hardware: those that ship, or its own where runs on it were measured.

    Raises:
        RecipeError: its file names a constant that does not exist, or a negative one.
    """
    held = shipped()
    spread = {name: max(getattr(held, name), getattr(hardware, name)) for name in ("scatter", "ttft_scatter")}
    held = held.with_(**spread) if hardware.scatter or hardware.ttft_scatter else held
    if not hardware.constants:
        return held
    unknown = set(hardware.constants) - set(held.constants)
    if unknown:
        raise RecipeError(f"{hardware.name}: unknown constants {', '.join(sorted(unknown))}")
    own = {name: held.constants[name].with_(value=value) for name, value in hardware.constants.items()}
    if any(value < 0 for value in hardware.constants.values()):
        raise RecipeError(f"{hardware.name}: a constant is below 0")
    families = list(dict.fromkeys([*held.families, hardware.family]))
    update = {"constants": {**held.constants, **own}, "families": families}
    return held.with_(**update, source=f"{held.source}; {', '.join(hardware.fitted_to)}")
