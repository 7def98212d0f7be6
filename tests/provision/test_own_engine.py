"""`overspan engine use`: what it takes, what it refuses, and which engine a plan then has."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from overspan.catalog import flags
from overspan.cli.engine import engine as command
from overspan.provision import own
from overspan.runs.planning import Wanted, plan_of
from overspan.schema.errors import EngineMissing, InputError, RecipeError
from support.own_vllm import make_own_vllm


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE", "STATE"):
        monkeypatch.setenv(f"OVERSPAN_{name}", str(tmp_path / name))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
def gpu_machine(tmp_path: Path) -> str:
    gpu = {"index": 0, "kind": "h100", "memory_bytes": 80_000_000_000}
    host = {"name": "localhost", "memory_bytes": 64_000_000_000, "cores": 16, "gpus": [gpu]}
    file = tmp_path / "gpu.yaml"
    file.write_text(yaml.safe_dump({"name": "gpu", "device": "cuda", "hosts": [host]}))
    return str(file)


@pytest.mark.parametrize("named", ["", "bin/python", "bin/vllm"])
def test_each_way_of_naming_one_gives_its_environment(tmp_path: Path, named: str) -> None:
    folder = make_own_vllm(tmp_path / "my env")
    done = CliRunner().invoke(command, ["use", str(folder / named), "--json"])
    assert done.exit_code == 0, done.output
    kept = json.loads(done.stdout)["own"]
    assert kept == {"path": str(folder), "version": "0.26.0", "device": "cuda", "is_there": True}
    listed = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
    assert listed["own"] == kept
    assert CliRunner().invoke(command, ["use", "--none"]).exit_code == 0
    assert own.find() is None


def test_a_link_of_a_bin_folder_leads_to_it(tmp_path: Path) -> None:
    folder = make_own_vllm(tmp_path / "env")
    (tmp_path / "vllm").symlink_to(folder / "bin" / "vllm")
    assert own.use(tmp_path / "vllm").path == folder


def test_a_folder_with_another_python_beside_is_asked_by_the_one_that_runs_its_vllm(tmp_path: Path) -> None:
    folder = make_own_vllm(tmp_path / "env")
    shared = tmp_path / "shared"  # as /usr/local is: vllm's own Python is elsewhere
    (shared / "bin").mkdir(parents=True)
    shutil.copy(folder / "bin" / "vllm", shared / "bin" / "vllm")
    (shared / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    assert own.use(shared).path == folder


def test_what_is_no_vllm_is_refused_with_what_was_looked_at(tmp_path: Path) -> None:
    empty = make_own_vllm(tmp_path / "empty")
    shutil.rmtree(next(empty.glob("lib/*/site-packages/vllm-*")))
    (tmp_path / "tool").write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    (tmp_path / "tool").chmod(0o755)
    refused = {
        "/nowhere": "nothing is there",
        str(tmp_path): f"looked at {tmp_path}/bin/python and {tmp_path}/bin/vllm",
        str(empty): f"{empty}/bin/python has no package vllm",
        str(tmp_path / "tool"): "is no Python",
    }
    for path, said in refused.items():
        with pytest.raises(InputError) as error:
            own.use(Path(path))
        assert said in error.value.what
        assert error.value.exit_code == 2
    assert not (tmp_path / "was-run").exists(), "a file that is no Python is never run"
    assert own.find() is None


def test_a_plan_takes_it_before_that_of_the_path_and_only_for_its_device(
    tmp_path: Path, gpu_machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_own_vllm(tmp_path / "mine")
    other = make_own_vllm(tmp_path / "other", "0.25.0")
    monkeypatch.setenv("PATH", f"{other}/bin{os.pathsep}/usr/bin")
    assert plan_of(Wanted("smollm2-135m", gpu_machine), to_start=False).engine.version == "0.25.0"
    own.use(mine)
    choice = plan_of(Wanted("smollm2-135m", gpu_machine), to_start=False).engine
    assert (choice.version, choice.environment, choice.assumed) == ("0.26.0", str(mine), None)
    on_cpu = plan_of(Wanted("smollm2-135m", "laptop"), to_start=False).engine
    assert on_cpu.environment is None
    assert on_cpu.assumed
    assert any(f"{mine}, is built for cuda" in note for note in on_cpu.notes)
    named = yaml.safe_load(Path(gpu_machine).read_text()) | {"engine_environment": str(other)}
    Path(gpu_machine).write_text(yaml.safe_dump(named))
    assert plan_of(Wanted("smollm2-135m", gpu_machine), to_start=False).engine.version == "0.25.0"


def test_an_own_engine_that_lacks_ray_is_not_taken_for_vllm_ray(tmp_path: Path, gpu_machine: str) -> None:
    mine = make_own_vllm(tmp_path / "mine")
    own.use(mine)
    with pytest.raises(EngineMissing, match=f"{mine} has no ray"):
        plan_of(Wanted("smollm2-135m", gpu_machine, ("engine=vllm-ray",)), to_start=True)


def test_one_that_was_deleted_is_told(tmp_path: Path, gpu_machine: str) -> None:
    shutil.rmtree(own.use(make_own_vllm(tmp_path / "mine")).path)
    with pytest.raises(EngineMissing, match="no vLLM is there any more") as error:
        plan_of(Wanted("smollm2-135m", gpu_machine), to_start=True)
    assert "overspan engine use --none" in str(error.value.next)
    assert "is there any more" in (plan_of(Wanted("smollm2-135m", gpu_machine), to_start=False).engine.assumed or "")


def test_its_flags_are_read_once_and_then_checked_against_on_a_machine_without_a_device(
    tmp_path: Path, gpu_machine: str
) -> None:
    own.use(make_own_vllm(tmp_path / "mine"))
    said: list[str] = []
    settings = ("seed=4",)  # 0.32 knows it, and this vLLM does not
    with pytest.raises(RecipeError, match=r"seed' is none of vLLM 0\.26\.0"):
        plan_of(Wanted("smollm2-135m", gpu_machine, settings), to_start=True, say=said.append)
    assert len(said) == 2
    assert "reading the flags" in said[0]
    assert set(flags.VLLM.exact("0.26.0") or ()) >= {"max_model_len", "only_here"}
    plan_of(Wanted("smollm2-135m", gpu_machine, ("only_here=1",)), to_start=True, say=said.append)
    assert len(said) == 2, "the second start reads nothing"


def test_one_that_does_not_tell_its_flags_starts_all_the_same(tmp_path: Path, gpu_machine: str) -> None:
    own.use(make_own_vllm(tmp_path / "mine", parser="raise RuntimeError('no such thing')\n"))
    said: list[str] = []
    plan = plan_of(Wanted("smollm2-135m", gpu_machine), to_start=True, say=said.append)
    assert plan.engine.version == "0.26.0"
    assert "did not print its flags: RuntimeError: no such thing; arguments are checked against" in said[-1]


def test_a_cpu_build_of_the_version_that_ships_needs_no_reading() -> None:
    assert flags.VLLM.exact("0.32.0+cpu") == flags.VLLM.shipped
    assert flags.VLLM.exact("0.31.0+cpu") is None
