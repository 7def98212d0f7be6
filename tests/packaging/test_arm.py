"""The core on aarch64, emulated: `make test-arm`. Needs root, mmdebstrap and Debian's packages; takes two minutes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.provision import locked

pytestmark = [pytest.mark.arm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
ARM = Path(os.environ.get("OVERSPAN_ARM", "/var/tmp/overspan-arm"))
SCRIPT = [str(ROOT / "scripts" / "arm.sh")]
LOG = (
    "INFO loading\nERROR: vllm-0.15.0-cp312-cp312-manylinux_2_35_x86_64.whl is not a supported wheel on this platform\n"
)
FOREIGN = """\
recipe_version: '2'
model: nvidia/Some-NVFP4
runtime: vllm
container: vllm/vllm-openai:v0.32.0
min_nodes: 2
defaults: {port: 8888, tensor_parallel: 2}
command: vllm serve {model} --port {port} -tp {tensor_parallel}
"""


@pytest.fixture(scope="module", autouse=True)
def arm_root() -> None:
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        pytest.skip("an arm64 root needs root and mmdebstrap: apt-get install mmdebstrap")
    made = subprocess.run([*SCRIPT, "make"], env={**os.environ, "PYTHON": sys.executable}, text=True, check=False)
    assert made.returncode == 0


def overspan(*argv: str, code: int = 0) -> str:
    """What the command prints on aarch64."""
    done = subprocess.run([*SCRIPT, "run", "overspan", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def given(name: str, text: str) -> str:
    """A file in the root, by its name there."""
    (ARM / "root" / "tmp" / name).write_text(text)
    return f"/tmp/{name}"


def test_detect_plan_and_render() -> None:
    inventory = overspan("detect")
    assert "\n  arch: aarch64\n" in inventory and "\n  cpu_bf16: true\n" in inventory
    there = given("here.yaml", inventory.partition("\nnote:")[0])
    assert "of HuggingFaceTB/SmolLM2-135M-Instruct on detected" in overspan("plan", "smollm2-135m", "--on", there)
    plan = json.loads(overspan("plan", "minimax-m2.5-nvfp4", "--on", "two-sparks", "--json"))
    assert [host["arch"] for host in plan["inventory"]["hosts"]] == ["aarch64", "aarch64"]


def test_doctor_reads_a_log_and_another_tools_recipe_is_imported() -> None:
    assert "[vllm-no-wheel-arch]" in overspan("doctor", "--log", given("a.log", LOG), code=1)
    assert "\n  tp: 2\n" in overspan("recipe", "import", given("foreign.yaml", FOREIGN))


def test_an_engine_is_installed_and_runs() -> None:
    """The smallest: its wheels hold compiled code. torch's CPU builds come from an index that a mirror may lack."""
    assert locked.load("router", "aarch64").label in overspan("engine", "install", "router")
    assert "router   0.1.17  Python 3.11" in overspan("engine", "list")
