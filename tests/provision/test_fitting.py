"""Which build of the GPU engine is taken, from captured detections alone."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from overspan.cli.engine import engine as command
from overspan.inventory import here
from overspan.inventory.gpus import parse_nvidia_smi
from overspan.provision import engines, fitting, locked
from overspan.runs.planning import Wanted, plan_of
from overspan.schema.errors import EngineMissing
from overspan.schema.inventory import Gpu, Host, Inventory


def gpus_of(nvidia_smi: str) -> list[Gpu]:
    """As `detect` reads them."""
    rows = parse_nvidia_smi(nvidia_smi)
    return [
        Gpu(
            index=row.index,
            kind=row.name,
            name=row.name,
            memory_bytes=row.memory_bytes or 2**36,
            driver=row.driver,
            compute_capability=row.compute_capability,
        )
        for row in rows
    ]


GB10 = "0, NVIDIA GB10, [N/A], 580.95.05, 12.1\n"
H200 = "0, NVIDIA H200, 143771, 580.159.04, 9.0\n"
H200_OLD_DRIVER = "0, NVIDIA H200, 143771, 550.90.07, 9.0\n"
V100 = "0, Tesla V100-SXM2-32GB, 32768, 580.95.05, 7.0\n"
THOR = "0, NVIDIA Thor, [N/A], 580.00, 11.0\n"
ANCIENT = "0, Tesla P100-PCIE-16GB, 16384, 470.82.01, 6.0\n"


@pytest.mark.parametrize(
    ("told", "machine", "taken"),
    [
        (GB10, "aarch64", "cuda"),
        (H200, "x86_64", "cuda"),
        (THOR, "aarch64", "cuda"),
        (H200_OLD_DRIVER, "x86_64", "cuda12"),
        (V100, "x86_64", "cuda12"),
    ],
)
def test_the_build_that_fits_driver_and_gpu_is_taken(told: str, machine: str, taken: str) -> None:
    found = fitting.fit("cuda", gpus_of(told), machine)
    assert found.lock.name == taken
    assert found.lock.machine == machine
    assert len(found.notes) == (taken != "cuda"), "why another build than the first is taken, and nothing else"


@pytest.mark.parametrize(
    ("told", "machine", "numbers"),
    [
        (
            ANCIENT,
            "x86_64",
            ["needs driver 580 or newer, and GPU 0 (Tesla P100-PCIE-16GB) has 470.82.01", "driver 525"],
        ),
        (H200_OLD_DRIVER, "aarch64", ["has 550.90.07", "no wheel of torch==2.10.0 with CUDA exists for aarch64"]),
        (V100 + "1, Tesla K80, 11441, 580.1, 3.7\n", "x86_64", ["compute capability 7.0", "capability 3.7"]),
    ],
)
def test_what_fits_no_build_is_refused_with_the_numbers_of_each(told: str, machine: str, numbers: list[str]) -> None:
    with pytest.raises(EngineMissing) as error:
        fitting.fit("cuda", gpus_of(told), machine)
    assert all(number in error.value.what for number in numbers), error.value.what
    assert "overspan engine use PATH" in str(error.value.next)


def test_what_is_not_known_is_said_and_never_refused() -> None:
    nothing = fitting.fit("cuda", [], "aarch64")
    assert nothing.lock.name == "cuda"
    assert "no GPU is seen on this machine" in nothing.notes[0]
    mute = [gpu.with_(driver=None, compute_capability=None) for gpu in gpus_of(H200)]
    found = fitting.fit("cuda", mute, "x86_64")
    assert found.lock.name == "cuda"
    assert [note.split(" of the GPUs")[0] for note in found.notes] == ["the driver", "the compute capability"]
    odd = [gpu.with_(driver="unknown") for gpu in gpus_of(H200)]
    assert fitting.fit("cuda", odd, "x86_64").lock.name == "cuda"


@pytest.mark.parametrize(
    ("told", "offered"),
    [
        (H200, "overspan engine install cuda (vLLM 0.32.0 for NVIDIA GPUs, CUDA 13.0); or overspan engine use PATH"),
        (
            H200_OLD_DRIVER,
            "overspan engine install cuda (vLLM 0.19.1 for NVIDIA GPUs, CUDA 12.8); or overspan engine use",
        ),
    ],
)
def test_up_on_a_machine_with_gpus_and_no_engine_offers_the_build_that_fits(
    told: str, offered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    _nothing_here(tmp_path, monkeypatch, told)
    with pytest.raises(
        EngineMissing, match="this machine has GPUs, and no vLLM on the PATH, named or installed"
    ) as error:
        plan_of(Wanted("smollm2-135m"), to_start=True)
    assert str(error.value.next).startswith(offered)
    assumed = plan_of(Wanted("smollm2-135m"), to_start=False).engine
    assert assumed.assumed
    assert assumed.environment is None


def test_up_where_no_build_fits_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    _nothing_here(tmp_path, monkeypatch, ANCIENT)
    with pytest.raises(EngineMissing, match=r"no vLLM on the PATH, named or installed.*has 470\.82\.01") as error:
        plan_of(Wanted("smollm2-135m"), to_start=True)
    assert "engine install" not in str(error.value.next)


def test_the_installed_build_is_taken_where_the_machine_has_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _nothing_here(tmp_path, monkeypatch, H200)
    found = engines.EngineEnv(
        name="cuda12", path=tmp_path, python=tmp_path, python_version="3.11", version="0.19.1", bin=tmp_path,
        digest="0", size_bytes=1, seconds=1, installed_at="2026-12-01",
    )  # fmt: skip

    def find(name: str) -> engines.EngineEnv:
        if name != "cuda12":
            raise EngineMissing(name)
        return found

    monkeypatch.setattr(engines, "find", find)
    choice = plan_of(Wanted("smollm2-135m"), to_start=False).engine
    assert (choice.version, choice.environment, choice.assumed) == ("0.19.1", str(tmp_path), None)


def _nothing_here(folder: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """A machine with the GPUs that nvidia-smi tells, and no engine."""
    for place in ("CACHE", "STATE"):
        monkeypatch.setenv(f"OVERSPAN_{place}", str(folder))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    host = Host(name="localhost", memory_bytes=2**37, cores=8, gpus=gpus_of(told))
    machine = Inventory(name="this-machine", device="cuda" if told else "cpu", hosts=[host])
    monkeypatch.setattr(here, "this_machine", lambda: machine)


@pytest.mark.parametrize("name", ["cuda", "cuda12"])
def test_the_locks_for_gpus_pin_everything_for_each_machine_that_they_name(name: str) -> None:
    for machine, lacking in locked.load(name).machines.items():
        lock = locked.load(name, machine)
        names = [locked.normal(pin.partition("==")[0]) for pin in lock.pins]
        assert {"vllm", "torch", "triton", "transformers", "gguf", "accelerate"} <= set(names)
        assert len(set(names)) == len(names)
        assert f"vllm=={lock.version}" in lock.pins
        assert bool(lacking) == (lock.refusal is not None)
        assert lock.gpus is not None
        assert lacking or lock.gpus.capabilities[machine]


def test_list_says_what_this_machine_could_run_and_why_not_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(told: str) -> dict[str, Any]:
        _nothing_here(tmp_path, monkeypatch, told)
        found = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
        assert "this machine" in CliRunner().invoke(command, ["list"]).stdout
        return {name: found[name] for name in ("can_install", "cannot_install", "cannot_run")}

    with_gpu = listed(H200)
    assert {"cpu", "cuda"} <= set(with_gpu["can_install"])
    old = listed(ANCIENT)
    assert set(old["cannot_install"]) == {"cuda", "cuda12"}
    without = listed("")
    assert without["cannot_install"] == {}
    assert "no GPU is seen" in without["cannot_run"]["cuda"]
