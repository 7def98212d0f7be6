"""An engine of another package, from its installation to a measured endpoint. Not a line of src knows it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from overspan.runs.stop import stop
from overspan.store.run_folder import all_runs
from support.fake_env import make_recipe
from support.shell import Done, run_overspan

PACKAGE = Path(__file__).with_name("toy_engine")
ROOT = Path(__file__).resolve().parents[2]

Overspan = Callable[..., Done]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the toy engine."""
    folder = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(folder), str(PACKAGE)], check=True, timeout=300)
    return folder


@pytest.fixture
def overspan(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Overspan]:
    """Runs the command where that folder is on Python's path."""
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str, **env: str) -> Done:
        return run_overspan(*arguments, env={"PYTHONPATH": f"{packages}:{ROOT / 'src'}", **env})

    yield run
    for each in all_runs():
        stop(each, grace_s=0)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    more = "engine: toy\nserved_model_name: tiny\nengine_args: {token_ms: 1}\n"
    return str(make_recipe(tmp_path / "tiny.yaml", Path("acme/none"), more))


def said(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plan_up_status_bench_stop(overspan: Overspan, recipe: str) -> None:
    plan = said(overspan("plan", recipe, "--show", "commands", "--set", "shout=true"))
    assert "-m toy_engine.server --model tiny --host 127.0.0.1" in plan and "--token-ms 1 --shout" in plan
    now = json.loads(said(overspan("up", recipe, "--json")))
    assert (now["state"], now["ready"]) == ("verified", True)
    assert "tiny" in said(overspan("status"))
    said(overspan("bench", "--concurrency", "2", "--requests", "8", "--output-tokens", "16", "--no-calibration"))
    (run,) = all_runs()
    (point,) = json.loads((run.path / "bench.json").read_text())["points"]
    assert point["requests"]["failed"] == 0
    assert point["server"]["generation_tokens"] >= 8 * 16  # by the engine's own names of its metrics
    assert said(overspan("chat", "--prompt", "count", "--max-tokens", "3")) == "0 1 2 \n"
    # Gone from this machine, it can still be looked at and stopped.
    said(overspan("status", PYTHONPATH=str(ROOT / "src")))
    said(overspan("stop", PYTHONPATH=str(ROOT / "src")))
    assert overspan("status").returncode == 3


def test_the_endpoints_key_reaches_it_in_its_own_variable(overspan: Overspan, recipe: str) -> None:
    now = json.loads(said(overspan("up", recipe, "--json", "--set", "api_key=true")))
    (run,) = all_runs()
    url = f"{run.plan().endpoint.base_url}/models"
    assert httpx.get(url, trust_env=False).status_code == 401
    key = json.loads((run.path / "secrets.json").read_text())["TOY_API_KEY"]
    assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code == 200
    assert now["state"] == "verified" and key not in (run.path / "plan.json").read_text()


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("token_ms=-1", "engine argument 'token_ms' must be 0 or more"),
        ("max_model_len=10", "unknown setting 'max_model_len'"),
        ("layout=tp2", "engine toy has one rank"),
    ],
)
def test_its_own_arguments_are_checked(overspan: Overspan, recipe: str, setting: str, problem: str) -> None:
    done = overspan("plan", recipe, "--set", setting)
    assert (done.returncode, problem in done.stderr) == (2, True), done.stderr


def test_where_it_is_not_installed_the_known_engines_are_told(overspan: Overspan, recipe: str) -> None:
    done = overspan("up", recipe, PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 2
    assert "tiny.yaml, line 8, column 1: 'engine': expected 'vllm', 'vllm-ray' or 'dynamo'" in done.stderr
