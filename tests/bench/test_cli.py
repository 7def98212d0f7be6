"""`overspan bench` as a person meets it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspan.cli.main import main
from overspan.store.run_folder import RunFolder
from support import openai_server as fake
from support.openai_server import serving
from support.runs import a_plan


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


SMALL = ("--requests", "4", "--input-tokens", "20", "--output-tokens", "4")


def test_json_is_a_list_of_points(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        assert call("--base-url", server.base_url, "-c", "1,2", *SMALL, "--json") == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["concurrency"] for point in points] == [1, 2]
    assert points[0]["requests"] == {"planned": 4, "ok": 4, "failed": 0, "errors": {}, "details": {}}
    assert points[1]["client_bound"] in (True, False)


def test_the_table_and_the_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        assert call("--base-url", server.base_url, "-c", "2", *SMALL) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1].split()[:3] == ["users", "ok", "failed"]
    assert shown.out.splitlines()[2].split()[:3] == ["2", "4", "0"]
    assert "set by the server's count" in shown.err


@pytest.mark.parametrize("users", ["0", "1,,2", "9" * 5000, "a", "1;2", "-1", "1,4,1", "", "1.5"])
def test_a_malformed_list(users: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--base-url", "http://127.0.0.1:9/v1", "-c", users) == 2
    assert "concurrency" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["duration", "timeout", "ramp", "burstiness", "slo-share", "trace-speed"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--base-url", "http://127.0.0.1:9/v1", "-c", "1", f"--{option}", value) == 2
    assert f"--{option}" in capsys.readouterr().err


def test_every_request_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def once(body: dict[str, object], send: fake.Send, number: int) -> None:
        (fake.steady() if number == 0 else lambda *_: send(fake.plain("500 Oops", b"{}")))(body, send, number)

    with serving(once) as server:
        assert call("--base-url", server.base_url, "-c", "2", *SMALL) == 1
    assert "4 failed: http_500" in capsys.readouterr().err


def test_a_dead_url_ends_with_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        url = server.base_url
    assert call("--base-url", url, *SMALL) == 4
    assert "does not answer" in capsys.readouterr().err


def test_run_and_url_exclude_each_other() -> None:
    assert call("some-run", "--base-url", "http://127.0.0.1:9/v1") == 2


@pytest.fixture
def measured_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    with serving() as server:
        folder = RunFolder.create("tiny")
        folder.write("plan.json", a_plan(server.port, served_model_name="mock"))
        folder.append("ready", state="ready")
        yield folder


def test_a_run_keeps_its_bench(measured_run: RunFolder) -> None:
    assert call(measured_run.id, "-c", "1,2", *SMALL) == 0
    kept = measured_run.bench()
    assert kept is not None
    assert [point.concurrency for point in kept.points] == [1, 2]
    assert len((measured_run.path / "requests-2.jsonl").read_text().splitlines()) == 4
    assert measured_run.state() == "benched"


def test_a_run_that_does_not_serve_is_not_measured(measured_run: RunFolder) -> None:
    measured_run.append("gone", state="stopped")
    assert call(measured_run.id, *SMALL) == 3
    assert measured_run.bench() is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "1", "--rate", "1"),
        ("--requests", "1", "--duration", "1"),
        ("--arrival", "gamma"),
        ("--rate", "0"),
        ("--rate", "a"),
        ("--slo", "ttft"),
        ("--slo", "speed=3"),
        ("--slo", ""),
        ("--input-tokens", "soon"),
        ("--trace", "/no/such/file"),
        ("--search",),
    ],
)
def test_options_that_do_not_fit_together(arguments: tuple[str, ...]) -> None:
    assert call("--base-url", "http://127.0.0.1:9/v1", *arguments) == 2


def test_a_trace_is_replayed_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 9, "output_length": 1}\n' * 130)
    with serving() as server:
        where = ("--base-url", server.base_url, "--no-calibration", "--json")
        assert call(*where, "--trace", str(trace), "--arrival", "trace") == 0
    (point,) = json.loads(capsys.readouterr().out)
    assert point["requests"]["ok"] == 130


def test_rates_limits_and_strict(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        where = ("--base-url", server.base_url, "--rate", "40", "--no-calibration", *SMALL)
        assert call(*where, "--slo", "ttft=10000") == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines()[1].split()[0] == "req/s"
        assert "100.0% within the limits" in shown.err

    def failing(body: dict[str, object], send: fake.Send, number: int) -> None:
        (fake.steady() if number < 2 else lambda *_: send(fake.plain("500 Oops", b"{}")))(body, send, number)

    with serving(failing) as server:
        where = ("--base-url", server.base_url, "-c", "1", "--no-calibration", *SMALL)
        assert call(*where) == 0
    with serving(failing) as server:
        assert call("--base-url", server.base_url, "-c", "1", "--no-calibration", *SMALL, "--strict") == 1
