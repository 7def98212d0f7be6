"""The constants of the predictor, as they ship."""

from __future__ import annotations

import functools
from importlib import resources

from overspan.schema.prediction import Calibration
from overspan.schema.yamlio import make, read_yaml


@functools.lru_cache(maxsize=1)
def shipped() -> Calibration:
    """The constants that ship, each with its source."""
    file = "calibration.yaml"
    text = resources.files("overspan.catalog").joinpath(file).read_text(encoding="utf-8")
    data, places = read_yaml(text, file)
    return make(Calibration, data, file, places)
