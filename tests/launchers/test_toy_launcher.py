"""A launcher of another package, from its installation to the end of what it started. Not a line of src knows it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from overspan.runs.stop import stop
from overspan.store.run_folder import all_runs
from support.fake_env import make_model, make_recipe
from support.shell import Done, run_overspan
from support.waiting import until

TESTS = Path(__file__).parents[1]
PACKAGES = (TESTS / "launchers" / "toy_launcher", TESTS / "engines" / "toy_engine")
SOURCE = str(TESTS.parent / "src")

Overspan = Callable[..., Done]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the toy launcher, and the toy engine for it to start."""
    folder = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), *map(str, PACKAGES)], check=True, timeout=300)
    return folder


@pytest.fixture
def overspan(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Overspan]:
    """Runs the command where that folder is on Python's path."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(packages))

    def run(*arguments: str, **env: str) -> Done:
        return run_overspan(*arguments, env={"PYTHONPATH": f"{packages}:{SOURCE}", **env})

    yield run
    for each in all_runs():
        stop(each, grace_s=0)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    more = "engine: toy\nserved_model_name: tiny\n"
    recipe = make_recipe(tmp_path / "tiny.yaml", make_model(tmp_path / "model"), more)
    machines = tmp_path / "machines.yaml"
    machines.write_text("name: mine\nlauncher: toy\nhosts: [{name: box, memory_bytes: 4000000000}]\n")
    return [str(recipe), "--on", str(machines)]


def started(overspan: Overspan, asked: list[str]) -> psutil.Process:
    """The process of a run that `up` has brought to a verified endpoint."""
    done = overspan("up", *asked, "--json")
    assert done.returncode == 0, done.stderr
    (member,) = json.loads(done.stdout)["processes"]
    assert (member["host"], member["health"]) == ("box", "running")
    return psutil.Process(member["pid"])


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_plan_up_status_stop(overspan: Overspan, asked: list[str]) -> None:
    plan = overspan("plan", *asked, "--show", "commands")
    assert (plan.returncode, "# api on box\n" in plan.stdout) == (0, True), plan.stderr
    process = started(overspan, asked)
    assert "box" in overspan("status").stdout
    assert overspan("stop").returncode == 0
    assert gone(process)


def test_a_death_ends_the_run(overspan: Overspan, asked: list[str]) -> None:
    process = started(overspan, asked)
    process.kill()
    (run,) = all_runs()
    until(lambda: run.state() == "failed", "the death is told")
    assert f"(pid {process.pid}) on box is gone" in run.last_state().message


def _broken(packages: Path, tmp_path: Path) -> Path:
    """The folder of packages, with a launcher that cannot be imported."""
    copy = shutil.copytree(packages, tmp_path / "broken")
    (copy / "toy_launcher" / "__init__.py").write_text("raise ImportError('made for another Overspan')\n")
    return copy


def test_stop_ends_what_a_killed_supervisor_left(
    overspan: Overspan, asked: list[str], packages: Path, tmp_path: Path
) -> None:
    process = started(overspan, asked)
    (run,) = all_runs()
    record = run.note("supervisor.json")
    for pid in (record["guardian"], record["pid"]):
        psutil.Process(pid).kill()
    until(lambda: not psutil.pid_exists(record["pid"]) or gone(psutil.Process(record["pid"])), "its end")
    without = overspan("stop", run.id, PYTHONPATH=SOURCE)
    assert (without.returncode, "is stopped, but: unknown launcher 'toy'" in without.stderr) == (4, True)
    broken = overspan("stop", run.id, PYTHONPATH=f"{_broken(packages, tmp_path)}:{SOURCE}")
    assert (broken.returncode, "ImportError: made for another Overspan" in broken.stderr) == (4, True), broken.stderr
    assert overspan("stop", run.id).returncode == 0
    assert gone(process)


def test_where_it_is_not_installed_the_known_launchers_are_told(overspan: Overspan, asked: list[str]) -> None:
    done = overspan("plan", "smollm2-135m", *asked[1:], PYTHONPATH=SOURCE)
    assert done.returncode == 2
    assert "'launcher': expected 'local', 'docker' or 'slurm'" in done.stderr
