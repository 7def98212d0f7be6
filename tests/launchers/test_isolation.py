"""What an engine gets of the shell that started it, and what it leaves behind on this machine."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

from overspan.launchers.local import LocalLauncher
from overspan.schema.process import ProcessSpec
from overspan.schema.secrets import Secret
from overspan.store import run_temporary
from overspan.store.run_folder import RunFolder
from support.plans import plan_on, run_in
from support.waiting import until

SHELL = {
    "PYTHONPATH": "/of/mine",
    "PYTHONSTARTUP": "/of/mine.py",
    "LD_PRELOAD": "",
    "LD_AUDIT": "",
    "GITHUB_TOKEN": "ghp-1",
    "AWS_SECRET_ACCESS_KEY": "aws-1",
    "AWS_ACCESS_KEY_ID": "AKIA-1",
    "WANDB_API_KEY": "wandb-1",
    "SSH_AUTH_SOCK": "/run/agent",
    "HF_TOKEN": "hf-1",
    "OVERSPAN_API_KEY": "sk-1",
    "CUDA_VISIBLE_DEVICES": "0",
    "NCCL_DEBUG": "WARN",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
}
TELLS = "import json, os; print(json.dumps(dict(os.environ)), flush=True)"


def started(run: RunFolder, env: dict[str, str], secrets: dict[str, str]) -> dict[str, str]:
    """The environment of a process that is started with these."""
    launcher = LocalLauncher(plan_on(), run)
    spec = ProcessSpec(name="api", host="here", argv=[sys.executable, "-S", "-c", TELLS], env=env, secrets=[*secrets])
    launcher.start(spec, {name: Secret(value) for name, value in secrets.items()})
    until(lambda: run.log("api").read_text().endswith("\n"), "the process's environment")
    launcher.end(1.0)
    found: dict[str, str] = json.loads(run.log("api").read_text())
    return found


def test_secrets_and_what_changes_its_code_do_not_reach_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    seen = started(run_in(tmp_path), {}, {})
    assert {name for name in SHELL if name in seen} == {
        "HF_TOKEN", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "LD_LIBRARY_PATH"
    }  # fmt: skip


def test_what_the_recipe_or_inventory_names_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value)
    named = {"PYTHONPATH": "/of/the/recipe", "HF_HUB_OFFLINE": "1", "TMPDIR": "/named"}
    seen = started(run_in(tmp_path), named, {"AWS_SECRET_ACCESS_KEY": "aws-2"})
    assert named.items() <= seen.items()
    assert seen["AWS_SECRET_ACCESS_KEY"] == "aws-2"
    assert "HF_TOKEN" not in seen, "the weights are here already"


def test_temporary_files_are_the_runs_own_and_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "a-place-of-mine"))
    (tmp_path / "a-place-of-mine").mkdir()
    run = run_in(tmp_path)
    seen = started(run, {}, {})
    assert next(iter(seen)) == "TMPDIR", "titles of processes need a first variable that no engine sets"
    assert not Path(seen["TMPDIR"]).exists(), "it goes with the last process"
    folder = run_temporary.make(run)
    assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as listening:
        ray = folder / "ray/session_2026-12-01_01-35-09_123456_1234567/sockets/plasma_store"
        ray.parent.mkdir(parents=True)
        listening.bind(str(ray))
    assert run_temporary.make(run) == folder, "a restart takes the same"
    run_temporary.forget(run)
    run_temporary.forget(run)
    assert not folder.exists() and not (run.path / "temporary.json").exists()


def test_a_run_folder_cannot_have_others_files_removed(tmp_path: Path) -> None:
    run, mine = run_in(tmp_path), tmp_path / "mine"
    mine.mkdir()
    link = tmp_path / "overspan-link"
    link.symlink_to(mine)
    for path in (mine, link, "../..", 7, None):
        (run.path / "temporary.json").write_text(json.dumps({"path": path if path is None else str(path)}))
        run_temporary.forget(run)
    (run.path / "temporary.json").write_text("{{{")
    run_temporary.forget(run)
    assert mine.is_dir() and os.path.lexists(link)
