"""Hardware is data, and a number in the wrong unit is caught."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import hardware, releases
from overspan.schema.errors import RecipeError, UnknownName
from overspan.schema.hardware import HardwareSpec
from overspan.schema.yamlio import make

ISSUE_7 = {"gb10", "h100", "h200", "b200", "b300", "gb200", "gb300", "a100", "l40s", "rtx-pro-6000", "cpu"}


def test_all_kinds_ship_with_sources() -> None:
    assert set(hardware.names()) == ISSUE_7
    for name in hardware.names():
        spec = hardware.find(name)
        assert spec.name == name
        assert all(rate.source for rate in spec.rates.values())


@pytest.mark.parametrize(
    ("driver", "kind"),
    [("NVIDIA GB200", "gb200"), ("NVIDIA B200", "b200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA GB10", "gb10")],
)
def test_by_the_drivers_name(driver: str, kind: str) -> None:
    assert hardware.find(driver).name == kind


def test_unknown_kind() -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        hardware.find("h2000")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("273e9", "273", "'bandwidth.bytes_per_s': 273 is no plausible value in bytes per second; did you mean 273e9?"),
        ("32.5e-6", "32.5", "'between.latency_s': 32.5 is no plausible value in seconds; did you mean 32.5e-6?"),
        ("bf16: {flop_per_s: 125e12", "bf16: {flop_per_s: 125", "did you mean 125e12?"),
        ("bf16:", "bf17:", "rates"),
    ],
)
def test_unit_errors(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = Path(str(hardware.__file__)).with_suffix("").joinpath("gb10.yaml").read_text()
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new, 1))
    assert hardware.find("gb10") is not None
    with pytest.raises(RecipeError) as caught:
        hardware.find(str(file))
    assert said in caught.value.what


SHEET = {
    "name": "mine", "family": "hopper",
    "memory": {"bytes": 141e9, "source": "x"},
    "bandwidth": {"bytes_per_s": 4.8e12, "source": "x"},
    "rates": {name: {"flop_per_s": rate, "source": "x"} for name, rate in (("bf16", 989e12), ("fp8", 1979e12))},
    "within": {"latency_s": 5e-6, "bytes_per_s": 450e9, "source": "x"},
    "between": {"latency_s": 3e-5, "bytes_per_s": 50e9, "source": "x"},
    "launch": {"seconds": 6e-6, "source": "x"},
    "clock": {"hz": 1.98e9, "source": "x"},
}  # fmt: skip


def changed(field: str, value: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(SHEET))
    *parts, last = field.split(".")
    functools.reduce(lambda part, name: part[name], parts, document)[last] = value
    return document


@pytest.mark.parametrize("factor", [1e-12, 1e-9, 1e-6, 1e-3, 1e3, 1e6, 1e9, 0, -1, math.inf, math.nan])
@pytest.mark.parametrize(
    "field",
    [
        *("memory.bytes", "bandwidth.bytes_per_s", "rates.bf16.flop_per_s", "rates.fp8.flop_per_s", "launch.seconds"),
        *("within.latency_s", "within.bytes_per_s", "between.latency_s", "between.bytes_per_s", "clock.hz"),
    ],
)
def test_every_field_is_refused_in_another_unit(field: str, factor: float) -> None:
    """GB for bytes, TB for GB, ms for us, none, less than none: told by the field's own name."""
    found: Any = functools.reduce(lambda part, name: part[name], field.split("."), changed("name", "mine"))
    value = float(found)
    assert make(HardwareSpec, changed(field, value), "mine.yaml").name == "mine"
    with pytest.raises(RecipeError) as caught:
        make(HardwareSpec, changed(field, value * factor), "mine.yaml")
    assert field in caught.value.what


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("bandwidth.bytes_per_s", 4.8e9, "did you mean 4.8e+12?"),
        ("rates.bf16.flop_per_s", 989e9, "did you mean 9.89e+14?"),
        ("rates.fp8.flop_per_s", 3958e12, "no plausible value"),  # the sheet's, with sparsity
        ("between.latency_s", 0.03, "did you mean 3e-05?"),
        ("within.bytes_per_s", 9e12, "more than the memory's"),
        ("memory.reserve_bytes", 4.0, "did you mean 4e+09?"),
        ("memory.reserve_bytes", 100e9, "of 1.41e+11"),
    ],
)
def test_numbers_that_do_not_go_together(field: str, value: float, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make(HardwareSpec, changed(field, value), "mine.yaml")
    assert said in caught.value.what


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("vllm/vllm-openai:v0.10.2", "0.10.2"),
        ("nvcr.io/nvidia/vllm:25.10-py3", "0.10.2"),
        ("ghcr.io/me/vllm:nightly", None),
        (None, None),
    ],
)
def test_engine_version_of_an_image(image: str | None, version: str | None) -> None:
    assert releases.engine_version(image) == version
