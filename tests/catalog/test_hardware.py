"""Hardware is data, and a number in the wrong unit is caught."""

from pathlib import Path

import pytest

from overspan.catalog import hardware, images
from overspan.schema.errors import RecipeError, UnknownName

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
    assert images.engine_version(image) == version
