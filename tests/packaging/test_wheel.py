"""The wheel builds, and installs by itself into an empty environment: no torch, no vLLM, every data file in it."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.real  # pip asks the registry

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    run(str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", str(wheel))
    return folder / "venv" / "bin"


def test_the_command_is_there(environment: Path) -> None:
    assert "up" in run(str(environment / "overspan"), "--help")


def test_recipes_and_engine_locks_are_in_it(environment: Path) -> None:
    assert "vllm serve" in run(str(environment / "overspan"), "plan", "smollm2-135m", "--show", "commands")
    assert "cpu" in run(str(environment / "overspan"), "engine", "list")


def test_core_brings_no_engine(environment: Path) -> None:
    names = run(str(environment / "python"), "-m", "pip", "list", "--format=freeze").lower()
    assert not [line for line in names.splitlines() if line.startswith(("torch", "vllm", "transformers", "ray="))]
