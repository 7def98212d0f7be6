"""`overspan verify`: what it prints, how it ends, and what it says to bad input."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from overspan.cli.main import main
from overspan.schema.finding import Evidence, Finding
from overspan.store.run_folder import RunFolder
from overspan.verify.of_run import keep
from support.endpoint import endpoint
from support.openai_server import plain, serving
from support.runs import a_plan, free_port


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Verify = Callable[..., Done]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Verify:
    def run(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as end:
            main(["verify", *arguments])
        said = capsys.readouterr()
        return Done(int(end.value.code or 0), said.out, said.err)

    return run


def test_a_sound_endpoint_ends_with_0_and_one_document(verify: Verify) -> None:
    with endpoint() as url:
        done = verify("--base-url", url, "--short", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["status"] for each in json.loads(done.stdout)] == ["not_evaluated", "passed", "passed", "passed"]


def test_a_failed_rule_ends_with_1_and_is_told_with_its_evidence(verify: Verify) -> None:
    with endpoint("stream-loses-text") as url:
        done = verify("--base-url", url, "--short")
    assert done.returncode == 1
    assert "FAILED         streamed: a streamed answer is another than the whole one" in done.stdout
    assert "  | whole: 'The capital of France is Paris.'; streamed:" in done.stdout
    assert "1 of 4 failed" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--base-url", "127.0.0.1:8000"], "is not a base URL"),
        (["--base-url", "{sound}", "--model", "stab"], "unknown model 'stab': did you mean stub?"),
        (["--base-url", "{sound}", "some-run"], "exclude each other"),
        (["--base-url", "{sound}", "--reference", "nowhere.json"], "No such file"),
        (["--base-url", "{sound}", "--reference", __file__], "Invalid JSON"),
        (["--expect", "reasoning"], "--expect is for --base-url"),
        (["--model", "m", "--expect", "reasoning"], "--model and --expect are for --base-url"),
        (["--base-url", ""], "'' is not a base URL"),
        (["--base-url", "{sound}", ""], "RUN and --base-url exclude each other"),
        (
            ["--base-url", "{sound}", "--record", "x.json", "--eval", "q.jsonl"],
            "--record and --eval exclude each other",
        ),
        (["--base-url", "{sound}", "--short", "--reference", "x.json"], "--short and --reference exclude each other"),
        (["--base-url", "{sound}", "--harness", "lm-eval", "--short"], "--harness and --short exclude each other"),
        (["--base-url", "{sound}", "--eval", "q.jsonl", "--expect", "reasoning"], "--eval and --expect exclude"),
        (["--base-url", "{sound}", "--samples", "1"], "--samples is for --eval"),
        (["--base-url", "{sound}", "--record", "/nowhere/x.json"], "--record /nowhere/x.json: there is no folder"),
        (["--base-url", "{sound}", "--record", "a" * 250], "File name too long"),
        (["--base-url", "{sound}", "--record", "."], "--record .: that is a folder"),
        (["no-such-run"], "unknown run"),
    ],
)
def test_bad_input_is_one_error_and_exit_code_2(
    verify: Verify, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    with endpoint() as url:
        done = verify(*(each.format(free=free_port(), sound=url) for each in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:{free}/v1", "does not answer"),
        ("http://xn--/v1", "xn-- does not resolve"),
        (f"http://{'a' * 64}/v1", "label too long"),
    ],
)
def test_who_does_not_answer_ends_it_with_4_as_a_bench(verify: Verify, url: str, says: str) -> None:
    done = verify("--base-url", url.format(free=free_port()))
    assert (done.returncode, done.stdout) == (4, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", [plain("200 OK", b"<html>hello</html>", "text/html"), plain("404 Not Found", b"{}")])
def test_what_is_no_openai_endpoint_is_refused(verify: Verify, answer: bytes) -> None:
    with serving(listing=answer) as server:
        done = verify("--base-url", server.base_url)
    assert done.returncode == 2
    assert "is not an OpenAI endpoint" in done.stderr


def test_a_run_that_is_over_is_not_ready(verify: Verify, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    run = RunFolder.create("over")
    run.write("plan.json", a_plan(1))
    run.append("stopped", state="stopped")
    assert verify("over").returncode == 3


def test_findings_are_added_to_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    run = RunFolder.create("kept")
    run.append("ready", state="ready")
    before = [Finding(rule="nccl.transport", status="passed"), Finding(rule="verify.stop", status="passed")]
    run.write("verify.json", before)
    after = Finding(rule="verify.stop", status="failed", cause="not honoured", evidence=Evidence(text="a stop"))
    keep(run, [after])
    assert run.findings() == [before[0], after]
    assert run.events()[-1].message == "verify: 0 passed, 1 failed, 0 not evaluated: verify.stop: not honoured"
    assert run.state() == "ready"


def test_what_one_endpoint_gives_is_recorded_and_another_is_compared_with_it(verify: Verify, tmp_path: Path) -> None:
    file = str(tmp_path / "reference.json")
    with endpoint() as url:
        done = verify("--base-url", url, "--record", file, "--json")
        assert (done.returncode, json.loads(done.stdout)["reference"]) == (0, file)
        done = verify("--base-url", url, "--harness", "lm-eval", "--json")
        assert json.loads(done.stdout)["command"].startswith("lm_eval --model")
        done = verify("--base-url", url, "--reference", file, "--json")
    logits = next(each for each in json.loads(done.stdout) if each["rule"] == "verify.logits")
    assert (done.returncode, logits["status"]) == (0, "passed")
    assert "(100.0%)" in logits["evidence"]["text"]
    with endpoint("other-logits") as url:
        assert verify("--base-url", url, "--reference", file).returncode == 1
    with endpoint("no-token-ids") as url:
        done = verify("--base-url", url, "--record", file)
    assert (done.returncode, "tells no token ids" in done.stderr) == (1, True)
