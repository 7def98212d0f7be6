"""The whole product once, on one engine: up, chat, bench, report, repeat, stop."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from overspan.endpoint.client import Client
from support.live import Live, Overspan

pytestmark = pytest.mark.real

TOKENS = 800
"""Of the stream that is in flight at `stop`: some 16 s of them on an idle machine, 60 s beside a load of 10."""

CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid"}


@pytest.fixture(scope="module")
def run(overspan: Overspan) -> Iterator[Live]:
    # A stream in flight at `stop` may take as long as a busy machine needs for it.
    run = Live(overspan, "main-job", "--set", "drain_timeout_s=400")
    yield run
    overspan("stop", run.folder.id, "--grace", "0")


def test_up_ends_verified_with_a_real_token_and_the_known_answer(run: Live) -> None:
    assert (run.status["state"], run.status["ready"]) == ("verified", True)
    states = [event.state for event in run.folder.events() if event.state]
    assert states == ["planned", "staged", "launching", "ready", "verified"]
    finding = run.folder.findings()[0]
    assert finding.status == "passed"
    assert finding.evidence is not None
    assert "Paris" in finding.evidence.text


def test_status_from_another_shell(run: Live, overspan: Overspan) -> None:
    done = overspan("status", run.folder.id, "--json")
    now = json.loads(done.stdout)
    assert now["ready"] is True
    assert now["processes"][0]["health"] == "running"
    assert now["processes"][0]["memory_bytes"] > 500_000_000  # the family: API server, core and worker


def test_chat_streams_the_answer(run: Live, overspan: Overspan) -> None:
    assert "Paris" in overspan("chat", run.folder.id, "--prompt", "What is the capital of France?").stdout


def test_verify_finds_nothing_wrong(run: Live, overspan: Overspan) -> None:
    found = json.loads(overspan("verify", run.folder.id, "--short", "--json").stdout)
    assert {each["rule"]: each["status"] for each in found} == {
        "verify.known-answer": "passed",
        "verify.streamed": "passed",
        "verify.burst": "passed",
        "verify.characters": "passed",
    }
    assert [each.rule for each in run.folder.findings()] == [each["rule"] for each in found]


@pytest.mark.slow
def test_verify_in_full_and_an_evaluation(run: Live, overspan: Overspan, tmp_path: Path) -> None:
    found = {each["rule"]: each for each in json.loads(overspan("verify", run.folder.id, "--json").stdout)}
    statuses = {rule.removeprefix("verify."): each["status"] for rule, each in found.items()}
    assert {rule for rule, status in statuses.items() if status != "passed"} == {"tool-calls", "reasoning"}
    assert "transformers" in found["verify.logits"]["evidence"]["text"]
    questions = tmp_path / "capitals.jsonl"
    lines = [{"prompt": f"What is the capital of {land}?", "answer": city} for land, city in CAPITALS.items()]
    questions.write_text("\n".join(json.dumps(line) for line in lines))
    ask = ("verify", run.folder.id, "--eval", str(questions), "--max-tokens", "24", "--json")
    first = json.loads(overspan(*ask).stdout)
    assert 0.25 < first["accuracy"] <= 1
    again = json.loads(overspan(*ask, "--against", run.folder.id).stdout)
    assert again["comparison"]["p"] > 0.05


def test_logs_of_a_process(run: Live, overspan: Overspan) -> None:
    assert "smollm2-135m" in overspan("logs", run.folder.id, "--process", "api").stdout
    refused = overspan("logs", run.folder.id, "--process", "apy", check=False)
    assert (refused.returncode, "did you mean api" in refused.stderr) == (2, True)


def test_bench_counts_every_request_and_the_servers_tokens(run: Live, overspan: Overspan) -> None:
    arguments = ["--concurrency", "1,4", "--requests", "8", "--input-tokens", "32", "--output-tokens", "16"]
    points = json.loads(overspan("bench", run.folder.id, *arguments, "--json").stdout)
    assert [point["concurrency"] for point in points] == [1, 4]
    for point in points:
        assert point["requests"]["planned"] == point["requests"]["ok"] == 8
        assert 0 < point["ttft_ms"]["p50"] < point["e2e_ms"]["p50"]
        assert point["tpot_ms"]["mean"] > 0
    assert run.folder.state() == "benched"


def test_report_is_one_page_with_the_numbers(run: Live, overspan: Overspan) -> None:
    overspan("report", run.folder.id)
    page = (run.folder.path / "report.html").read_text()
    assert "smollm2-135m" in page
    assert "--enforce-eager" in page


def test_the_folder_is_as_the_design_says(run: Live) -> None:
    present = {path.name for path in run.folder.path.iterdir()}
    expected = {"plan.json", "processes.json", "events.jsonl", "logs", "verify.json", "bench.json", "report.html"}
    assert expected | {"run.lock.yaml"} <= present
    assert any(name.startswith("requests") for name in present)


def test_a_second_up_of_the_name_is_refused_and_names_the_first(run: Live, overspan: Overspan) -> None:
    refused = overspan("up", "smollm2-135m", "--name", "main-job", "--set", "port=0", check=False)
    assert refused.returncode == 2
    assert run.folder.id in refused.stderr
    assert overspan("status", run.folder.id, check=False).returncode == 0


def test_a_port_that_is_taken_is_refused_and_says_by_whom(run: Live, overspan: Overspan) -> None:
    port = run.folder.plan().endpoint.port
    refused = overspan("up", "smollm2-135m", "--name", "late", "--set", f"port={port}", check=False)
    assert refused.returncode == 2
    assert f"port {port}" in refused.stderr
    assert f"pid {run.family()['api'].pid}" in refused.stderr


def test_stop_drains_a_stream_in_flight_and_leaves_nothing(run: Live, overspan: Overspan) -> None:
    client = Client(run.folder.plan().endpoint)
    long = {"max_tokens": TOKENS, "ignore_eos": True, "stream_options": {"include_usage": True}}
    asked = {"model": "smollm2-135m", "messages": [{"role": "user", "content": "Count to fifty."}], **long}
    stream = client.events("/chat/completions", asked)
    next(stream)
    stopper = threading.Thread(target=overspan, args=("stop", run.folder.id))
    stopper.start()
    *_, last = stream  # raises when the stream ends without its [DONE]
    ended_at = datetime.now(UTC)
    stopper.join()
    assert last["usage"]["completion_tokens"] == TOKENS
    (stopping,) = [event for event in run.folder.events() if event.state == "stopping"]
    assert stopping.at < ended_at, "the stream was in flight"
    run.nothing_left()
    assert run.folder.state() == "stopped"
    assert overspan("status", run.folder.id, check=False).returncode == 3


def test_the_lock_repeats_the_run(run: Live, overspan: Overspan) -> None:
    lock = run.folder.path / "run.lock.yaml"
    again = json.loads(overspan("up", str(lock), "--name", "again", "--json").stdout)
    try:
        argv = json.loads((run.folder.path.parent / again["run"] / "processes.json").read_text())[0]["argv"]
        assert argv == run.folder.processes()[0].argv
        assert again["state"] == "verified"
    finally:
        overspan("stop", again["run"], "--grace", "0")
