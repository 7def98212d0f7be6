"""`prove` on the real engine: right layouts are exact, and wrong ones are caught."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from overspan.catalog import models, recipes
from overspan.launchers import proc
from overspan.prove import proving
from overspan.prove.proving import Proof
from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.schema.layout import parse_layout
from support.mixtral import MIXTRAL
from support.qwen import QWEN3_MOE

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    folder = tmp_path_factory.mktemp("mixtral-8x7b")
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    return folder


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A folder of packages with the plugin that breaks things."""
    site = tmp_path / "site"
    info = site / "planted-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nplanted = planted:install\n")
    source = Path(__file__).parent / "engine_side" / "planted.py"
    (site / "planted.py").write_text(source.read_text())
    return site


def _prove(model: Path, layout: str, engine: str = "vllm", **env: str) -> Proof:
    recipe = recipes.find(str(model)).with_(engine=engine)
    (proof,) = proving.prove(recipe, [parse_layout(layout)], print, env)
    return proof


@pytest.mark.parametrize("layout", ["tep2", "pp2dp2"])
def test_right_layouts_are_exact(model: Path, layout: str) -> None:
    proof = _prove(model, layout)
    assert proof.exact, proof
    assert proof.tokens > 900
    assert proof.memory_bytes is not None
    assert proof.memory_bytes < 8 * 2**30


def test_a_layout_on_ray_is_exact_and_leaves_nothing(model: Path) -> None:
    try:
        engines.find("cpu-ray")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    proof = _prove(model, "tp2", engine="vllm-ray")
    assert proof.exact, proof
    assert proof.tokens > 900
    left = {process.name() for process in psutil.process_iter() if proc.is_alive(process)}
    assert not {"raylet", "gcs_server"} & left


@pytest.mark.parametrize(("name", "layout"), [("qwen3-30b-a3b", "tep2"), ("llama-3.3-70b", "pp2")])
def test_other_architectures_are_exact(model: Path, tmp_path: Path, name: str, layout: str) -> None:
    config = QWEN3_MOE if name.startswith("qwen") else models.config_of("meta-llama/Llama-3.3-70B-Instruct")
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps(config))
    proof = _prove(tmp_path / name, layout)
    assert proof.exact, proof
    assert proof.preemptions > 0
    assert proof.cached_tokens > 0


@pytest.fixture(scope="module")
def deepseek(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek-v3")
    (folder / "config.json").write_text(json.dumps(models.config_of("deepseek-ai/DeepSeek-V3")))
    return folder


@pytest.mark.parametrize("layout", ["tp2", "pp2", "dp2"])
def test_latent_attention_is_exact(deepseek: Path, layout: str) -> None:
    proof = _prove(deepseek, layout)
    assert proof.exact, proof
    assert proof.preemptions > 0
    assert proof.cached_tokens > 0


@pytest.mark.parametrize("layout", ["tp1", "tep2"])
def test_what_mtp_modules_draft_is_taken_and_refused_and_changes_no_token(deepseek: Path, layout: str) -> None:
    recipe = recipes.find(str(deepseek))
    drafts = {"method": "deepseek_mtp", "num_speculative_tokens": 1, "moe_backend": "triton"}
    recipe = recipe.with_(engine_args={**recipe.engine_args, "speculative_config": drafts})
    (proof,) = proving.prove(recipe, [parse_layout(layout)], print)
    assert proof.exact, proof
    assert proof.not_proven_here == ["speculative_config.moe_backend"]
    assert 0.1 < proof.accepted / proof.drafted < 0.9


@pytest.mark.parametrize(("layout", "fault"), [("tep2", "expert_map"), ("pp2", "residual")])
def test_a_planted_fault_is_caught(model: Path, planted: Path, layout: str, fault: str) -> None:
    proof = _prove(model, layout, PYTHONPATH=str(planted), PLANTED=fault)
    assert not proof.exact
    assert proof.error is None, proof.error
    assert proof.first_difference is not None
    assert proof.first_difference.margin is not None
    assert proof.first_difference.margin > 1e-4  # no rounding


def test_a_layout_that_cannot_be_is_refused_with_its_reason(model: Path) -> None:
    proof = _prove(model, "tp3")
    assert not proof.exact
    assert proof.error is not None
    assert "does not divide 32 attention heads" in proof.error


def test_ctrl_c_ends_what_was_started(model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OVERSPAN_STATE": str(tmp_path / "state")}
    command = [sys.executable, "-m", "overspan", "prove", str(model), "--layouts", "tp2"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _engines_of(tmp_path):
        time.sleep(0.2)
    assert _engines_of(tmp_path), "no engine was started"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert _engines_of(tmp_path) == []


def _engines_of(folder: Path) -> list[psutil.Process]:
    """Living processes of the runs that keep their state in a folder."""
    found = []
    for each in psutil.process_iter():
        try:
            if each.environ().get("OVERSPAN_STATE", "").startswith(str(folder)) and "serve" in each.cmdline():
                found.append(each)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found
