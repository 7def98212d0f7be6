"""`up` into a file or a CI log: a line for each phase of the start, and one each half minute."""

import json
from types import SimpleNamespace

import pytest

from cli.conftest import Shell
from overspan.cli.up import follow
from support.waiting import until

SAYS = ";".join(
    (
        "INFO 12-01 10:00:00 [core.py:133] Initializing a V1 LLM engine (v0.26.0).",
        "Loading safetensors checkpoint shards:  46% Completed | 12/26 [00:09<00:10,  1.4it/s]",
        "Loading safetensors checkpoint shards:  92% Completed | 24/26 [00:19<00:01,  1.4it/s]",
        "DeepGEMM warmup:  47%|####7     | 594/1261 [03:10<02:52,  3.87it/s]",
        "Capturing CUDA graphs (decode, FULL):  48%|####8     | 40/83 [00:09<00:10,  4.1it/s]",
    )
)


def test_each_phase_is_a_line_and_json_stays_json(shell: Shell) -> None:
    done = shell.run("up", str(shell.recipe), "--json", FAKE_SAYS=SAYS, FAKE_SAYS_S="1.5")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["state"] == "verified"
    said = [line.split(maxsplit=1)[1] for line in done.stderr.splitlines() if "(api)" in line]
    assert said[0] == "the engine core starts (api)"
    assert said[1].startswith("weights: ")
    assert said[1].endswith(" of 26 shards (api)")
    once = "the first start alone takes it: what it makes is kept in the engine's cache folder"
    assert said[2:] == [f"DeepGEMM warm-up: 594 of 1261 kernels (api); {once}", "CUDA graph capture: 40 of 83 (api)"]


def test_status_of_a_start_says_the_same(shell: Shell) -> None:
    with shell.start("up", str(shell.recipe), FAKE_SAYS=SAYS.split(";")[3], FAKE_SAYS_S="600") as up:
        until(lambda: [1 for run in shell.runs() if any("phase" in each.data for each in run.events())], "the phase")
        done = shell.run("status", "--json")
        up.terminate()
        up.wait(timeout=60)
    assert done.returncode == 3
    assert json.loads(done.stdout)["progress"] == "DeepGEMM warm-up: 594 of 1261 kernels (api)"


def test_each_half_minute_without_a_line_has_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell.run("up", str(shell.recipe)).returncode == 0
    (run,) = shell.runs()
    run.log("api").write_text("DeepGEMM warmup:  47%|####7     | 594/1261 [03:10<02:52,  3.87it/s]")
    passed = iter([0.0, 20.0, 31.0, 31.0, 32.0, 50.0, 62.5, 62.5, *[63.0] * 9])
    monkeypatch.setattr("overspan.cli.up.time", SimpleNamespace(monotonic=lambda: next(passed)))
    monkeypatch.setattr("overspan.cli.up.Starts", lambda *_: SimpleNamespace(look=lambda: None))
    follow(run, iter([None] * 6))
    said = [line.split(maxsplit=1)[1] for line in capsys.readouterr().err.splitlines()]
    assert said == ["still launching: api: DeepGEMM warmup:  47%|####7     | 594/1261 [03:10<02:52,  3.87it/s]"] * 2
