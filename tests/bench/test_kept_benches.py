"""Every bench of a run is kept; one without a success replaces no good one; readers say which they took."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overspan.cli.main import main
from overspan.store.benches import choice_of
from overspan.store.run_folder import RunFolder
from support import openai_server as fake
from support.openai_server import serving
from support.runs import a_plan

SMALL = ("--requests", "4", "--input-tokens", "20", "--output-tokens", "4", "--no-calibration")


class Broken:
    """A server that answers the first request of each bench, and then as it is told."""

    def __init__(self) -> None:
        self.broken, self.dies_after, self._answered = False, 0, 0

    def __call__(self, body: dict[str, Any], send: fake.Send, number: int) -> None:
        if self.dies_after and body["max_tokens"] == 4:
            self._answered += 1
            self.broken = self._answered > self.dies_after
        if self.broken and body["max_tokens"] == 4:
            send(fake.plain("500 Oops", b"{}"))
        else:
            fake.steady()(body, send, number)


@pytest.fixture
def server() -> Broken:
    return Broken()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Broken) -> Iterator[RunFolder]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    with serving(server) as listening:
        folder = RunFolder.create("tiny")
        folder.write("plan.json", a_plan(listening.port, served_model_name="mock"))
        folder.append("ready", state="ready")
        yield folder


def overspan(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_bench_in_which_the_server_died_replaces_no_good_one(
    run: RunFolder, server: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 0
    good = run.bench()
    server.dies_after = 1
    assert overspan("bench", run.id, "-c", "1", *SMALL) == 0
    assert "most requests failed: kept as bench-002.json" in capsys.readouterr().err
    assert good is not None and run.bench() == good
    assert "left out: bench 2 (" in choice_of(run).note and "1 of 4 requests ok" in choice_of(run).note


def test_an_empty_bench_replaces_no_good_one(
    run: RunFolder, server: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 0
    good = run.bench()
    requests = (run.path / "requests-2.jsonl").read_text()
    server.broken = True
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 1
    assert "kept as bench-002.json" in capsys.readouterr().err
    assert good is not None and run.bench() == good
    assert (run.path / "requests-2.jsonl").read_text() == requests
    assert '"http_500"' in (run.path / "bench-002" / "requests-2.jsonl").read_text()
    assert json.loads((run.path / "bench-002.json").read_text())["points"][0]["requests"]["ok"] == 0

    assert overspan("report", run.id) == 0
    page = (run.path / "report.html").read_text()
    assert "bench 1 (" in page and "left out: bench 2 (" in page and "0 of 4 requests ok" in page
    capsys.readouterr()
    assert overspan("compare", run.id, run.id) == 0
    assert "bench 1 (" in capsys.readouterr().err
    overspan("calibrate", "--from", run.id)
    assert choice_of(run).note.startswith("bench 1 (")


def test_the_newest_that_measured_is_taken_and_the_ones_before_are_kept(run: RunFolder) -> None:
    assert overspan("bench", run.id, "-c", "1", *SMALL) == 0
    first = run.bench()
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 0
    assert list(run.requests()) == [2]
    chosen = choice_of(run)
    assert chosen.taken is not None and chosen.taken.number == 2
    assert [kept.result for kept in chosen.left_out] == [first]
    assert len((run.path / "bench-001" / "requests-1.jsonl").read_text().splitlines()) == 4


def test_the_bench_of_an_older_version_is_kept_too(run: RunFolder) -> None:
    assert overspan("bench", run.id, "-c", "1", *SMALL) == 0
    before = (run.path / "bench.json").read_bytes()
    for path in (run.path / "bench-001").iterdir():
        path.unlink()
    (run.path / "bench-001").rmdir()
    (run.path / "bench-001.json").unlink()
    assert choice_of(run).note == ""
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 0
    assert (run.path / "bench-001.json").read_bytes() == before
    assert (run.path / "bench-001" / "requests-1.jsonl").exists()
    assert (run.path / "bench-002.json").read_bytes() == (run.path / "bench.json").read_bytes()


def test_a_first_bench_without_a_success_is_shown_as_that(
    run: RunFolder, server: Broken, capsys: pytest.CaptureFixture[str]
) -> None:
    server.broken = True
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 1
    assert run.state() == "ready"
    assert run.bench() is not None
    capsys.readouterr()
    assert overspan("compare", run.id, run.id) == 2
    said = capsys.readouterr().err
    assert "no request that ended well" in said and "Traceback" not in said
    server.broken = False
    assert overspan("bench", run.id, "-c", "2", *SMALL) == 0
    chosen = choice_of(run)
    assert chosen.taken is not None and chosen.taken.number == 2 and run.state() == "benched"


def test_a_point_without_a_success_is_not_compared() -> None:
    from overspan.sweep.compare import compare

    assert compare({"1": []}, {"1": []}) == []


def test_a_bench_that_never_began_leaves_no_number(run: RunFolder, tmp_path: Path) -> None:
    gone = RunFolder.create("gone")
    gone.write("plan.json", a_plan(9, served_model_name="mock"))
    gone.append("ready", state="ready")
    assert overspan("bench", gone.id, "-c", "2", *SMALL) == 4
    assert not list(gone.path.glob("bench*"))


def test_a_damaged_bench_of_before_is_named_and_hides_no_other(run: RunFolder) -> None:
    for _ in range(2):
        assert overspan("bench", run.id, "-c", "1", *SMALL) == 0
    (run.path / "bench-001.json").write_text("{")
    assert "bench 1 (its file cannot be read)" in choice_of(run).note
