"""Five numbers of a machine become a hardware file that the planner takes; what was not measured says so."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from overspan.catalog import hardware
from overspan.cli.main import main
from overspan.inventory import here, measure
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.hardware import HardwareSpec
from overspan.schema.inventory import Gpu, Host
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


def test_a_sound_gpu_keeps_the_chips_own_numbers(tmp_path: Path) -> None:
    spec = written(tmp_path, H200)
    known = hardware.find("h200")
    assert (spec.name, spec.family, spec.gpus_per_host) == ("my-h200", "hopper", 2)
    assert spec.bandwidth.bytes_per_s == known.bandwidth.bytes_per_s
    assert "88% of it (4.23e+12)" in spec.bandwidth.source
    assert {name: rate.flop_per_s for name, rate in spec.rates.items()} == {
        name: rate.flop_per_s for name, rate in known.rates.items()
    }
    # FP8 was not measured: it keeps its ratio, and says so.
    assert "not measured" in spec.rates["fp8"].source
    assert (spec.within.latency_s, spec.within.bytes_per_s) == (12e-6, 330e9)
    assert spec.launch
    assert spec.launch.seconds == 4e-6
    assert spec.memory.bytes == 150_000_000_000


@pytest.mark.parametrize("product", [500e12, 700e12, 781e12, 985e12])
@pytest.mark.parametrize("copy", [2e12, 4.17e12, 4.75e12])
def test_no_rate_is_above_the_chips_own(tmp_path: Path, product: float, copy: float) -> None:
    spec = written(tmp_path, {**H200, "rates": {"bf16": product, "fp32": 50e12}, "copy_bytes_per_s": copy})
    known = hardware.find("h200")
    assert copy <= spec.bandwidth.bytes_per_s <= known.bandwidth.bytes_per_s
    for name, rate in spec.rates.items():
        assert rate.flop_per_s <= known.rates[name].flop_per_s
    assert product <= spec.rates["bf16"].flop_per_s


def test_a_slower_chip_is_written_as_slower(tmp_path: Path) -> None:
    half = written(tmp_path, {**H200, "rates": {"bf16": 781e12 / 2}, "copy_bytes_per_s": 4.17e12 / 2})
    known = hardware.find("h200")
    assert half.bandwidth.bytes_per_s == pytest.approx(known.bandwidth.bytes_per_s / 2, rel=0.01)
    for name in ("bf16", "fp8"):
        assert half.rates[name].flop_per_s == pytest.approx(known.rates[name].flop_per_s / 2, rel=0.01)
    assert "bandwidth, rates" in measure.beside_catalogue(half)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"copy_bytes_per_s": 9e12}, "copy_bytes_per_s = 9e+12, and a h200 itself has 4.8e+12"),
        ({"copy_bytes_per_s": 0.0}, "copy_bytes_per_s = 0.0: no number above 0"),
        ({"copy_bytes_per_s": float("nan")}, "copy_bytes_per_s = nan"),
        ({"copy_bytes_per_s": "fast"}, "copy_bytes_per_s = 'fast'"),
        ({"rates": {"bf16": 1115e12}}, "rates.bf16 = 1.115e+15, and a h200 itself has 9.89e+14"),
        ({"rates": {"bf16": float("inf")}}, "rates.bf16 = inf"),
        ({"launch_s": -1e-6}, "launch_s = -1e-06"),
        ({"launch_s": 1.0}, "no plausible value"),
        ({"all_reduce_bytes_per_s": float("nan")}, "all_reduce_bytes_per_s = nan"),
        ({"gpu": "NVIDIA X900", "copy_bytes_per_s": 1e9}, "no plausible value"),
    ],
)
def test_an_absurd_measurement_is_refused_with_its_numbers(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        measure.spec_of({**H200, **change}, HOST, "2026-11-22")
    assert said in str(refused.value)
    assert refused.value.exit_code == 2


class NoTorch:
    """A machine with a GPU whose Pythons have no torch that can use it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, driver: str | None = None) -> None:
        gpu = Gpu(index=0, name="NVIDIA H200", kind="h200", memory_bytes=150_000_000_000, driver=driver)
        machine = here.this_machine()
        hosts = [machine.hosts[0].with_(gpus=[gpu])]
        monkeypatch.setattr(here, "this_machine", lambda: machine.with_(hosts=hosts, device="cuda"))
        monkeypatch.setenv("OVERSPAN_CACHE", str(folder / "cache"))
        self.file = folder / "mine.yaml"

    def calibrate(self, *words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", "--out", str(self.file), *words])
        return int(ended.value.code or 0)


@pytest.mark.parametrize("torch", [None, "__version__ = '2.9.0+cpu'\nclass version:\n    cuda = hip = None\n"])
def test_the_cpu_of_a_gpu_machine_is_not_measured_in_place_of_its_gpu(
    torch: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = NoTorch(tmp_path, monkeypatch)
    if torch:
        (tmp_path / "torch.py").write_text(torch + "class cuda:\n    is_available = staticmethod(lambda: False)\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert machine.calibrate("--python", sys.executable) == 2
    err = capsys.readouterr().err
    assert not machine.file.exists()
    assert "this machine has 1 GPU" in err
    assert ("has torch 2.9.0+cpu, which is built for CPUs" if torch else "has no torch") in err
    assert "overspan calibrate --python PATH" in err
    assert "overspan engine use PATH" in err
    assert "next: overspan engine install cuda (vLLM" in err


def test_an_engine_that_does_not_fit_is_not_offered_for_a_measurement(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = NoTorch(tmp_path, monkeypatch, driver="470.82")
    assert machine.calibrate("--python", sys.executable) == 2
    err = capsys.readouterr().err
    assert "next: overspan calibrate --python PATH" in err
    assert "engine install" not in err


def test_the_torch_of_the_engine_that_up_would_use_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = NoTorch(tmp_path, monkeypatch)
    programs = tmp_path / "engine" / "bin"
    programs.mkdir(parents=True)
    site = tmp_path / "engine" / "lib" / "python3.11" / "site-packages" / "vllm-0.26.0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.26.0\n")
    answer = json.dumps({**H200, "gpus": 1, "why": ""})
    for name in ("python", "vllm"):
        (programs / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    assert machine.calibrate() == 0
    assert hardware.find(str(machine.file)).name == "my-h200"


def test_a_file_that_says_what_the_catalogue_says_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = NoTorch(tmp_path, monkeypatch)
    alone = {name: value for name, value in H200.items() if not name.startswith("all_reduce")}
    monkeypatch.setattr(measure, "numbers", lambda *_, **__: {**alone, "launch_s": 6.4e-6, "gpus": 1})
    assert machine.calibrate() == 0
    assert "this file predicts as the catalogue does, no better" in capsys.readouterr().err


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
