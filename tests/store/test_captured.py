"""Folders that an earlier version wrote are still read: every document, and every command that shows them."""

import json
import shutil
from pathlib import Path

import pytest

from overspan.catalog import recipes
from overspan.cli.main import main
from overspan.store.run_folder import open_run
from overspan.sweep.folder import open_sweep

CAPTURED = Path(__file__).parent / "captured"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy: commands write reports into these folders."""
    shutil.copytree(CAPTURED, tmp_path / "state")
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def output(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*argv])
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == code, shown.err
    return shown.out


def test_every_document_of_a_run_is_read() -> None:
    run = open_run("captured")
    plan, bench = run.plan(), run.bench()
    assert (run.state(), run.ended) == ("stopped", True)
    assert (plan.layout.label, plan.recipe.name, plan.placements[0].process) == ("tp1", "smollm2-135m", "api")
    assert plan.prediction and plan.prediction.tpot_ms == pytest.approx(sum(plan.prediction.terms.values()))
    assert [spec.name for spec in run.processes()] == ["api"]
    assert {finding.rule for finding in run.findings() if finding.status == "passed"} > {
        "verify.streamed",
        "verify.usage",
    }
    assert bench and [(point.concurrency, point.requests.ok) for point in bench.points] == [(1, 4), (2, 4)]
    assert sorted(run.requests()) == [1, 2]
    assert [event.state for event in run.events() if event.state] == [
        "planned", "staged", "launching", "ready", "verified", "benched", "stopping", "stopped",
    ]  # fmt: skip


def test_every_document_of_a_sweep_is_read() -> None:
    sweep = open_sweep("mini")
    assert [(result.point.id, result.state) for result in sweep.measured().ended] == [
        ("short/tp1/c1", "ok"),
        ("short/tp1/c2", "ok"),
    ]
    assert [point.id for point in sweep.points()] == ["short/tp1/c1", "short/tp1/c2"]
    assert sweep.points() == [result.point for result in sweep.measured().ended]
    assert sweep.journal()


def test_the_commands_show_them(capsys: pytest.CaptureFixture[str], state: Path) -> None:
    assert json.loads(output(capsys, "list", "--json"))[0]["state"] == "stopped"
    assert "stopped" in output(capsys, "status", "captured", code=3)
    assert "Application shutdown complete" in output(capsys, "logs", "captured")
    assert output(capsys, "report", "captured").strip().endswith("report.html")
    assert output(capsys, "report", "mini").strip().endswith("report.html")
    out = state / "points.csv"
    output(capsys, "export", "mini", "--out", str(out))
    head, *rows = out.read_text().splitlines()
    assert len(rows) == 2
    assert "predicted_tpot_ms" in head
    output(capsys, "compare", "captured", "captured")


def test_its_lock_is_a_recipe() -> None:
    lock = open_run("captured").path / "run.lock.yaml"
    recipe = recipes.find(str(lock))
    assert (recipe.name, recipe.engine_args["max_model_len"]) == ("smollm2-135m", 512)
    assert recipe.locked and recipe.locked.run == open_run("captured").id
