"""A sweep of six points on real engines, killed half-way and resumed, with one point made to fail."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.store.run_folder import RunFolder, all_runs
from overspan.sweep.folder import SweepFolder, newest
from support import ladder
from support.live import Overspan
from support.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]


def folder() -> SweepFolder | None:
    return newest("ladder")


def runs() -> list[RunFolder]:
    return [run for run in all_runs() if run.name.startswith("ladder-")]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, engine: object) -> Path:
    return ladder.write(tmp_path_factory.mktemp("sweep"))


def test_killed_half_way_and_resumed(overspan: Overspan, file: Path) -> None:
    refused = file.with_name("without_the_empty_heads.yaml")
    refused.write_text(ladder.SWEEP.replace("base: smollm2.yaml", "base: smollm2-135m"))
    done = overspan("sweep", str(refused), "--dry-run", check=False)
    assert (done.returncode, "9 attention heads" in done.stderr) == (2, True)

    with subprocess.Popen([sys.executable, "-m", "overspan", "sweep", str(file)], env=os.environ) as sweep:
        until(lambda: (held := folder()) and len(held.results()) == 3, "three points", timeout_s=1200)
        sweep.kill()
    held = folder()
    assert held is not None
    before = (held.path / "results.jsonl").read_text()
    alive = [run.id for run in runs() if not run.ended]
    assert len(alive) == 1, "the deployment outlives the command that was killed"

    done = overspan("sweep", str(file), "--json", check=False)
    assert done.returncode == 1, done.stderr  # one point was made to fail
    states = {point["id"]: point["state"] for point in json.loads(done.stdout)["points"]}
    assert list(states.values()) == ["ok"] * 5 + ["failed"]
    after = (held.path / "results.jsonl").read_text()
    assert after.startswith(before), "what was measured before the kill stands as it was"
    assert len(after.splitlines()) == 6, "no point was measured twice"
    assert len(runs()) == 3, "one deployment a topology: the second went on after the kill"
    assert held.results()[3].run == alive[0]
    assert all(run.state() == "stopped" for run in runs())
    served = {result.run: result.point.topology for result in held.results() if result.run}
    assert {run.plan().layout.label.upper() for run in runs()} == set(served.values()) == {"TP1", "TP2", "PP2"}
    for run in runs():
        assert run.plan().layout.label.upper() == served[run.id]


def test_every_result_is_derived_verified_and_counted() -> None:
    held = folder()
    assert held is not None
    results = held.results()
    for result in results[:5]:
        assert result.measured is not None
        assert result.measured.requests.ok == result.measured.requests.planned == result.point.requests
        assert result.measured.requests.failed == 0
        assert {"verify.known-answer", "verify.streamed", "verify.burst"} <= {each.rule for each in result.verification}
        assert result.derived is not None and (result.derived.tokens_per_s["output"] or 0) > 0
        assert result.point.recipe_hash
    assert [result.point.ranks for result in results] == [1, 1, 2, 2, 2, 2]
    assert results[5].reason


def test_report_compare_and_export(overspan: Overspan, tmp_path: Path) -> None:
    held = folder()
    assert held is not None
    page = Path(overspan("report", held.id).stdout.strip()).read_text()
    assert "5 of 6" in page
    assert "short/pp2-hurried/c4" in page
    compared = json.loads(overspan("compare", held.id, held.id, "--json").stdout)["differences"]
    assert {each["verdict"] for each in compared} <= {"noise", "too few requests"}
    assert {each["change"] for each in compared} == {0.0}
    for kind in ("csv", "parquet"):
        overspan("export", held.id, "--out", str(tmp_path / f"points.{kind}"))
    with (tmp_path / "points.csv").open(newline="") as rows:
        assert [row["state"] for row in csv.DictReader(rows)] == ["ok"] * 5 + ["failed"]
    import pyarrow.parquet as parquet

    table = parquet.read_table(tmp_path / "points.parquet")
    assert table.num_rows == 6
    assert table.column("state").to_pylist() == ["ok"] * 5 + ["failed"]
