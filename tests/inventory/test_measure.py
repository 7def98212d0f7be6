"""Five numbers of a machine become a hardware file that the planner takes; what was not measured says so."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import hardware
from overspan.cli.main import main
from overspan.inventory import measure
from overspan.schema.errors import OverspanError
from overspan.schema.hardware import HardwareSpec
from overspan.schema.inventory import Host
from overspan.schema.yamlio import dump

HOST = Host(name="localhost", cores=2, memory_bytes=24_000_000_000)
H200 = {
    "with": "torch 2.9.0", "device": "cuda", "gpu": "NVIDIA H200", "capability": "9.0", "gpus": 2,
    "memory_bytes": 150_000_000_000, "copy_bytes_per_s": 4.23e12, "rates": {"bf16": 700e12, "fp32": 50e12},
    "launch_s": 4e-6, "ranks": 2, "all_reduce_latency_s": 12e-6, "all_reduce_bytes_per_s": 330e9, "missing": {},
}  # fmt: skip


def written(tmp_path: Path, found: dict[str, Any]) -> HardwareSpec:
    """Through the file, as a person would."""
    file = tmp_path / "mine.yaml"
    file.write_text(dump(measure.spec_of(found, HOST, "2026-11-22")))
    return hardware.find(str(file))


def test_a_gpu_becomes_a_file(tmp_path: Path) -> None:
    spec = written(tmp_path, H200)
    known = hardware.find("h200")
    assert (spec.name, spec.family, spec.gpus_per_host) == ("my-h200", "hopper", 2)
    assert spec.bandwidth.bytes_per_s == pytest.approx(4.7e12)
    assert spec.rates["bf16"].flop_per_s == pytest.approx(1000e12)
    # FP8 was not measured: it keeps its ratio, and says so.
    assert spec.rates["fp8"].flop_per_s / spec.rates["bf16"].flop_per_s == pytest.approx(
        known.rates["fp8"].flop_per_s / known.rates["bf16"].flop_per_s
    )
    assert "not measured" in spec.rates["fp8"].source
    assert (spec.within.latency_s, spec.within.bytes_per_s) == (12e-6, 330e9)
    assert spec.launch
    assert spec.launch.seconds == 4e-6
    assert spec.memory.bytes == 150_000_000_000


def test_a_kind_that_nobody_knows_takes_its_familys_rest(tmp_path: Path) -> None:
    spec = written(tmp_path, {**H200, "gpu": "NVIDIA X900", "capability": "10.0"})
    assert (spec.name, spec.family) == ("my-x900", "blackwell")
    assert "fp4" in spec.rates


def test_one_gpu_alone_has_no_all_reduce(tmp_path: Path) -> None:
    alone = {key: value for key, value in H200.items() if not key.startswith("all_reduce")}
    spec = written(tmp_path, {**alone, "gpus": 1, "missing": {"all_reduce": "one GPU alone"}})
    assert spec.within.source == "not measured (one GPU alone): of h200"


def test_python_alone_measures_a_copy_and_says_what_it_could_not(tmp_path: Path) -> None:
    found = measure.numbers(sys.executable)
    assert 1e8 < found["copy_bytes_per_s"] < 1e13
    if "numpy" not in found["with"]:
        assert found["missing"].keys() == {"matrix product", "all_reduce", "launch"}
    spec = written(tmp_path, found)
    assert spec.bandwidth.bytes_per_s == pytest.approx(found["copy_bytes_per_s"])
    assert spec.within.source.startswith("not measured")
    assert spec.memory.bytes == HOST.memory_bytes


def test_what_died_is_quoted() -> None:
    with pytest.raises(OverspanError, match="the process that measures ended with an error"):
        measure.numbers("/bin/false")


def test_the_command_writes_a_file_that_plan_takes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--python", sys.executable, "--out", str(file), "--json"])
    out, err = capsys.readouterr()
    assert not ended.value.code
    document = json.loads(out)
    assert document["file"] == str(file)
    assert "was not measured" in err
    with pytest.raises(SystemExit) as ended:
        main(["predict", "smollm2-135m", "--on", "laptop", "--hardware", str(file), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert not ended.value.code
    spec = hardware.find(str(file))
    assert said["ceiling_tpot_ms"] == pytest.approx(
        json.loads(_predicted(capsys, "laptop"))["ceiling_tpot_ms"]
        * hardware.find("cpu").bandwidth.bytes_per_s / spec.bandwidth.bytes_per_s
    )  # fmt: skip


def _predicted(capsys: pytest.CaptureFixture[str], inventory: str) -> str:
    with pytest.raises(SystemExit):
        main(["predict", "smollm2-135m", "--on", inventory, "--json"])
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--from"], "RUNs need --from, and --from needs RUNs"),
        (["run-1"], "RUNs need --from, and --from needs RUNs"),
        (["--out", "/nowhere/mine.yaml"], "there is no folder /nowhere"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.real
def test_the_engines_torch_measures_all_five() -> None:
    from overspan.provision import engines
    from overspan.schema.errors import EngineMissing

    try:
        python = engines.find("cpu").python
    except EngineMissing:
        pytest.skip("no engine is installed")
    found = measure.numbers(str(python), 2)
    assert found["missing"] == {}
    assert found["ranks"] == 2
    assert 1e-7 < found["all_reduce_latency_s"] < 1.0
    assert 0 < found["launch_s"] < 1e-2
    assert found["rates"].keys() == {"bf16", "fp32"}
    assert measure.spec_of(found, HOST, "today").within.source.startswith("measured")
