"""`overspan prune` deletes what was not used for long, and never what runs."""

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overspan.cli.prune import prune
from overspan.runs.prune import prunable
from overspan.schema.places import synthetic_dir, twins_dir
from overspan.store.run_folder import RunFolder
from support.runs import a_plan


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path / "cache"))


def a_run(name: str, *states: str, **data: object) -> RunFolder:
    run = RunFolder.create(name)
    run.write("plan.json", a_plan(1))
    for state in states:
        run.append(state, state=state, **data)  # type: ignore[arg-type]
    return run


def folder(home: Path, name: str, days: float) -> Path:
    path = home / name
    path.mkdir(parents=True)
    (path / "config.json").write_text("x" * 1000)
    os.utime(path, (0, time.time() - days * 86400))
    return path


def called(*arguments: str) -> Result:
    return CliRunner().invoke(prune, arguments, standalone_mode=False)


def test_ended_runs_go_and_those_that_go_on_or_left_something_stay() -> None:
    stopped, failed = a_run("old", "verified", "stopped"), a_run("died", "failed")
    stay = [a_run("alive", "verified"), a_run("left", "stopped", left=["n2: does not answer"]), a_run("damaged")]
    assert called("--older-than", "1d", "--yes").return_value == 0
    assert stopped.path.exists(), "it ended just now"
    done = called("--older-than", "0d", "--yes", "--json")
    assert {row["name"] for row in json.loads(done.stdout)["pruned"]} == {stopped.id, failed.id}
    assert not stopped.path.exists() and not failed.path.exists()
    assert all(run.path.exists() for run in stay)


def test_a_run_whose_guardian_still_ends_it_stays() -> None:
    run = a_run("ending", "stopped")
    guardian = [sys.executable, "-c", "import time; time.sleep(600)", str(run.path)]
    with subprocess.Popen(guardian) as process:
        try:
            assert prunable(["runs"], timedelta(0)) == []
        finally:
            process.kill()
    assert [each.name for each in prunable(["runs"], timedelta(0))] == [run.id]


def test_twins_and_drawn_weights_go_by_their_last_use_but_not_under_a_run_that_goes_on() -> None:
    old, new = folder(twins_dir(), "llama-1", 40), folder(twins_dir(), "llama-2", 1)
    used = folder(synthetic_dir(), "llama-3", 40)
    run = a_run("synthetic", "verified")
    run.write("plan.json", a_plan(1).with_(model_path=str(used)))
    found = prunable(["twins", "synthetic"], timedelta(days=30))
    assert [(each.what, each.name, each.size_bytes) for each in found] == [("twins", "llama-1", 1000)]
    assert called("--what", "synthetic", "--yes").return_value == 0
    run.append("stopped", state="stopped")
    done = called("--what", "twins,synthetic", "--yes", "--json")
    assert {row["name"] for row in json.loads(done.stdout)["pruned"]} == {"llama-1", "llama-3"}
    assert (old.exists(), used.exists(), new.exists()) == (False, False, True)


def test_a_dry_run_deletes_nothing_and_nobody_to_ask_is_an_error() -> None:
    run = a_run("old", "stopped")
    done = called("--older-than", "0d", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert told["dry_run"] and [row["path"] for row in told["pruned"]] == [str(run.path)]
    refused = called("--older-than", "0d")
    assert "add --yes" in str(getattr(refused.exception, "next", None))
    assert run.path.exists()


@pytest.mark.parametrize("words", [("--older-than", "30"), ("--older-than", "1e9d"), ("--what", "runs,models")])
def test_what_is_no_age_and_no_kind_is_refused(words: tuple[str, str]) -> None:
    assert called(*words).exception is not None


def test_what_cannot_be_deleted_stays_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run("old", "stopped")

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied", str(run.path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    done = called("--older-than", "0d", "--yes", "--json")
    assert done.return_value == 1
    assert "Permission denied" in json.loads(done.stdout)["kept"][str(run.path)]
