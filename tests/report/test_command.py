"""`overspan report` over folders on disk."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from overspan.bench.run import Bench
from overspan.cli.main import main
from overspan.report import RunDocuments
from overspan.schema import places
from overspan.schema.workload import Workload
from overspan.store.run_folder import RunFolder
from support import run_documents as made
from support.openai_server import serving, steady
from support.run_documents import events, request_lines, run


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OVERSPAN_STATE", "OVERSPAN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert str(places.runs_dir()).startswith(str(tmp_path))


def on_disk(documents: RunDocuments) -> RunFolder:
    """The documents as a run's folder."""
    folder = RunFolder.create(documents.name)
    folder.write("plan.json", documents.plan)
    folder.write("processes.json", list(documents.processes))
    lines = [event.model_dump_json(exclude_defaults=True) + "\n" for event in documents.events]
    (folder.path / "events.jsonl").write_text("".join(lines))
    if documents.findings:
        folder.write("verify.json", list(documents.findings))
    if documents.bench:
        folder.write("bench.json", documents.bench)
        for point in documents.points:
            kept = "".join(request_lines(point.concurrency, 32))
            (folder.path / f"requests-{point.concurrency}.jsonl").write_text(kept)
    return folder


def overspan(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_the_report_is_written_into_the_runs_folder(capsys: pytest.CaptureFixture[str]) -> None:
    folder = on_disk(run("tiny"))
    assert overspan("report", "tiny", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    page = (folder.path / "report.html").read_text()
    assert said == {"report": str(folder.path / "report.html"), "runs": [folder.id], "bytes": len(page.encode())}
    assert "tiny-135m as tp1 on 2 CPU cores gave" in page
    assert "join the percentiles" not in page  # every latency was read from the requests
    for file in folder.path.glob("requests-*.jsonl"):
        file.unlink()
    assert overspan("report", "tiny") == 0
    assert "The curves of TTFT, TPOT, ITL, E2E join the percentiles" in (folder.path / "report.html").read_text()


def test_one_page_of_two_runs_needs_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_disk(run("one"))
    on_disk(run("two"))
    assert overspan("report", "one", "two") == 2
    assert "--out FILE" in capsys.readouterr().err
    assert overspan("report", "one", "two", "--out", str(tmp_path / "both.html")) == 0
    assert "Of 2 runs" in (tmp_path / "both.html").read_text()


def test_a_run_without_bench_and_checks_gets_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    folder = on_disk(run("bare", bench=None, findings=None, events=events()[:4]))
    assert overspan("report") == 0
    page = (folder.path / "report.html").read_text()
    assert f"overspan bench {folder.id} --concurrency" in page
    assert "whether its answers are right" in page


def test_what_a_bench_writes_is_what_the_report_draws(capsys: pytest.CaptureFixture[str]) -> None:
    folder = on_disk(run("measured", bench=None))
    load = Workload(concurrency=[1, 3], requests=6, input_tokens=16, output_tokens=5)
    with serving(steady(ttft_s=0.03, itl_s=0.004)) as server:
        measured = Bench(server.base_url, None, load, folder=folder.path).run()
    folder.write("bench.json", measured)
    assert overspan("report", "measured") == 0
    page = (folder.path / "report.html").read_text()
    held = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert held
    figures = json.loads(held[1])
    for metric in ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"):
        for trace, point in zip(figures[metric]["data"], measured.points, strict=True):
            summary = getattr(point, metric)
            # The median of the drawn curve is the summary's, within the gap between two of the six requests.
            below = max((x for x, y in zip(trace["x"], trace["y"], strict=True) if y <= 50.0), default=0.0)
            above = min(x for x, y in zip(trace["x"], trace["y"], strict=True) if y > 50.0)
            assert below * 0.99 <= summary.p50 <= above * 1.01
            assert trace["y"][-1] == 100.0
    assert "join the percentiles" not in page
    # What an earlier bench left is of no point of this one.
    (folder.path / "requests-9.jsonl").write_bytes((folder.path / "requests-3.jsonl").read_bytes())
    capsys.readouterr()
    assert overspan("compare", "measured", "measured", "--json") == 0
    assert {each["point"] for each in json.loads(capsys.readouterr().out)["differences"]} == {"1", "3"}


def test_an_open_loop_is_told_by_its_rates_and_takes_no_curve_of_an_earlier_bench() -> None:
    folder = on_disk(run("rated", users=(3,)))  # requests-3.jsonl, of users
    again = made.bench([made.point(3, rate_per_s=2.0), made.point(3, rate_per_s=8.0, speed=2.0)])
    folder.write("bench.json", again)
    for rate, speed in ((2, 1.0), (8, 2.0)):
        (folder.path / f"requests-rate-{rate}.jsonl").write_text("".join(request_lines(3, 16, speed=speed)))
    assert overspan("report", "rated") == 0
    page = (folder.path / "report.html").read_text()
    held = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert held
    slow, quick = json.loads(held[1])["ttft_ms"]["data"]
    assert (slow["name"], quick["name"]) == ("2 requests/s", "8 requests/s")
    assert slow["x"] != quick["x"] and len(slow["x"]) <= 16
    assert "3 users" not in page


def test_bad_input_ends_with_one_error_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = on_disk(run("tiny"))
    assert overspan("report", "tinny") == 2
    assert "did you mean tiny" in capsys.readouterr().err
    assert overspan("report", "tiny", "--out", str(tmp_path / "no" / "where.html")) == 2
    assert "mkdir -p" in capsys.readouterr().err
    (folder.path / "requests-4.jsonl").write_text('{"ok": true, "ttft_ms": ')
    assert overspan("report", "tiny") == 2
    assert "requests-4.jsonl, line 1" in capsys.readouterr().err
    assert not (folder.path / "report.html").exists()
