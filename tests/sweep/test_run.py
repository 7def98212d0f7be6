"""`overspan sweep` over a fake engine: every planned point ends ok, failed or missing, whatever happens on the way."""

import json
import os
import signal
from importlib import resources
from pathlib import Path
from typing import Any

from cli.conftest import Shell
from overspan.sweep.compare import requests_of
from overspan.sweep.folder import SweepFolder, all_sweeps
from support.shell import Done
from support.waiting import until

SWEEP = """name: ladder
base: {recipe}
scenarios: {{s: {{isl: 8, osl: 4}}}}
load: {{requests_per_user: 2, warmup_per_user: 0}}
overrides: {{env: {{FAKE_TOKEN_S: {token_s}}}}}
points:
{points}
"""
GOOD = "  - {topology: TP1, name: good, concurrency: [1, 2]}\n"
DIES = '  - {topology: TP1, name: dies, concurrency: [1], overrides: {env: {FAKE_DIES: "ValueError: no kernel"}}}\n'
WRONG = """  - topology: TP1
    name: wrong
    concurrency: [1, 3]
    overrides: {known_answers: [{prompt: "capital of France?", expect: London}]}
"""
BROKEN = "  - {topology: TP1, name: broken, concurrency: [1], overrides: {env: {FAKE_BROKEN_STREAM: 1}}}\n"
LATER = "  - {topology: TP1, name: later, concurrency: [1, 2], overrides: {env: {OTHER: 1}}}\n"


def a_sweep(shell: Shell, points: str, token_s: float = 0.0) -> Path:
    file = shell.home / "ladder.yaml"
    file.write_text(SWEEP.format(recipe=shell.recipe, points=points, token_s=token_s))
    return file


def ended(done: Done) -> dict[str, str]:
    return {point["id"].removeprefix("s/tp1-"): point["state"] for point in json.loads(done.stdout)["points"]}


def folder() -> SweepFolder:
    (only,) = all_sweeps()
    return only


def deployed() -> list[str]:
    """The runs that were started, each once."""
    lines: list[dict[str, Any]] = folder().journal()
    return list(dict.fromkeys(line["run"] for line in lines if line["event"] == "deployed"))


def test_a_point_that_fails_does_not_end_the_sweep(shell: Shell) -> None:
    file = a_sweep(shell, DIES + WRONG + BROKEN + GOOD)
    done = shell.run("sweep", str(file), "--json")
    assert done.returncode == 1, done.stderr
    failed = ("dies/c1", "wrong/c1", "wrong/c3", "broken/c1")
    assert ended(done) == dict.fromkeys(failed, "failed") | {"good/c1": "ok", "good/c2": "ok"}
    reasons = {point["id"]: point["reason"] for point in json.loads(done.stdout)["points"]}
    assert "ValueError: no kernel" in reasons["s/tp1-dies/c1"]
    assert "the model's answer is wrong" in reasons["s/tp1-wrong/c1"]
    assert "is not right: verify.streamed" in reasons["s/tp1-broken/c1"]
    until(lambda: not shell.processes(), "the end of every process")
    results = folder().results()
    assert len(deployed()) == 4, "one deployment for both concurrencies"
    good = [result for result in results if result.state == "ok"]
    assert len({result.run for result in good}) == 1
    assert [(result.measured.requests.ok, result.measured.requests.planned) for result in good if result.measured] == [
        (2, 2),
        (4, 4),
    ]
    assert good[0].derived is not None and (good[0].derived.tokens_per_s["output"] or 0) > 0
    assert {"verify.known-answer", "verify.burst"} <= {each.rule for each in good[0].verification}
    assert {each.status for each in good[0].verification} == {"passed"}

    # What is measured is not measured again: nothing starts.
    runs = len(shell.runs())
    assert ended(shell.run("sweep", str(file), "--json")) == ended(done)
    assert len(shell.runs()) == runs
    # What is mended in the document is another point: only it is run.
    a_sweep(shell, GOOD + LATER)
    again = shell.run("sweep", str(file), "--json")
    assert again.returncode == 0, again.stderr
    assert ended(again) == {"good/c1": "ok", "good/c2": "ok", "later/c1": "ok", "later/c2": "ok"}
    assert len(shell.runs()) == runs + 1


def test_on_other_machines_it_is_measured_anew(shell: Shell) -> None:
    file = a_sweep(shell, GOOD)
    laptop = (resources.files("overspan.catalog") / "inventories" / "laptop.yaml").read_text()
    others = shell.home / "others.yaml"
    others.write_text(laptop.replace("cores: 4", "cores: 64"))
    for inventory, runs in (("laptop", 1), (str(others), 2), ("laptop", 2)):
        done = shell.run("sweep", str(file), "--on", inventory, "--json")
        assert (done.returncode, set(ended(done).values())) == (0, {"ok"}), done.stderr
        assert len(shell.runs()) == runs
    assert len(all_sweeps()) == 2


def test_what_is_no_longer_planned_is_neither_exported_nor_compared(shell: Shell) -> None:
    for token_s in (0.0, 0.001):
        file = a_sweep(shell, GOOD, token_s=token_s)
        assert shell.run("sweep", str(file), "--json").returncode == 0
    assert len(folder().results()) == 4
    assert [result.point.recipe_hash for result in folder().measured().ended] == [
        result.point.recipe_hash for result in folder().results()[2:]
    ]
    out = shell.home / "points.csv"
    assert shell.run("export", "ladder", "--out", str(out)).returncode == 0
    assert len(out.read_text().splitlines()) == 3
    assert requests_of("ladder").points.keys() == {"s/tp1-good/c1", "s/tp1-good/c2"}
    assert {len(list(each.iterdir())) for each in (folder().path / "points").iterdir()} == {1}
    # A recipe that fails is not compared by what an earlier one gave.
    file.write_text(file.read_text().replace("{FAKE_TOKEN_S: 0.001}", '{FAKE_TOKEN_S: 0.001, FAKE_DIES: "no kernel"}'))
    assert shell.run("sweep", str(file), "--json").returncode == 1
    assert requests_of("ladder").points == {}


def test_killed_and_resumed_exactly_where_it_was(shell: Shell) -> None:
    file = a_sweep(shell, GOOD + LATER, token_s=0.05)
    with shell.start("sweep", str(file)) as sweep:
        until(lambda: all_sweeps() and len(folder().results()) == 3, "three points")
        sweep.kill()
    before = (folder().path / "results.jsonl").read_text()
    survivor = deployed()[-1]
    # A crash in the middle of a write.
    with (folder().path / "results.jsonl").open("a") as file_of_results:
        file_of_results.write('{"point": {"id": "s/tp1-l')
    done = shell.run("sweep", str(file), "--json")
    assert done.returncode == 0, done.stderr
    assert ended(done) == {"good/c1": "ok", "good/c2": "ok", "later/c1": "ok", "later/c2": "ok"}
    after = (folder().path / "results.jsonl").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 4, "no point was measured twice"
    assert len(deployed()) == 2
    assert folder().results()[-1].run == survivor, "the run that outlived the crash serves on"
    until(lambda: not shell.processes(), "the end of every process")


def test_ctrl_c_stops_the_deployment_and_the_same_command_goes_on(shell: Shell) -> None:
    file = a_sweep(shell, GOOD, token_s=0.2)
    with shell.start("sweep", str(file)) as sweep:
        until(lambda: all_sweeps() and len(folder().results()) == 1, "the first point")
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(timeout=60) == 130
        assert f"to continue: overspan sweep {file}" in (sweep.stderr.read() if sweep.stderr else "")
    until(lambda: not shell.processes(), "the end of every process")
    assert [result.point.concurrency for result in folder().results()] == [1]
    done = shell.run("sweep", str(file), "--only", "conc=1", "--json")
    assert (done.returncode, ended(done)) == (0, {"good/c1": "ok", "good/c2": "missing"})
    done = shell.run("sweep", str(file), "--json")
    assert ended(done) == {"good/c1": "ok", "good/c2": "ok"}
    assert [result.point.concurrency for result in folder().results()] == [1, 2]


def test_an_engine_that_dies_under_load_costs_its_point_alone(shell: Shell) -> None:
    points = "  - {topology: TP1, name: good, concurrency: [2, 1]}\n"
    file = a_sweep(shell, points, token_s=0.5)
    with shell.start("sweep", str(file), "--json") as sweep:
        until(
            lambda: any(line["event"] == "measuring" for line in folder().journal()) if all_sweeps() else None, "load"
        )
        run = until(lambda: [run for run in shell.runs() if run.state() == "verified"], "the run")[0]
        os.kill(next(p.pid for p in shell.processes() if "fake_engine.py" in " ".join(p.cmdline())), 9)
        until(lambda: run.ended, "its end")
        out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 1, err
    states = {point["id"]: point["state"] for point in json.loads(out)["points"]}
    assert states == {"s/tp1-good/c2": "failed", "s/tp1-good/c1": "ok"}
    assert len(deployed()) == 2
    # Asked to, it measures what failed once more.
    assert set(ended(shell.run("sweep", str(file), "--retry-failed", "--json")).values()) == {"ok"}


def test_a_sweep_that_is_being_run_is_refused(shell: Shell) -> None:
    file = a_sweep(shell, GOOD, token_s=0.3)
    with shell.start("sweep", str(file)) as sweep:
        until(lambda: all_sweeps() and folder().journal(), "the start")
        refused = shell.run("sweep", str(file))
        assert refused.returncode == 2
        assert "is being run by another process" in refused.stderr
        sweep.send_signal(signal.SIGINT)
        sweep.wait(timeout=60)


def test_a_point_that_the_server_stood_still_in_is_measured_once_more(shell: Shell) -> None:
    """The engine's own log tells of it, in one measurement or in both: never is it a good point without a word."""
    env = "overrides: {{env: {{FAKE_PAUSES: {times}}}}}"
    once, always = (env.format(times=times) for times in (4, 500))
    points = f"  - {{topology: TP1, name: once, concurrency: [1], {once}}}\n"
    points += f"  - {{topology: TP1, name: always, concurrency: [1], {always}}}\n"
    done = shell.run("sweep", str(a_sweep(shell, points)), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the server stood still at times: measured once more") == 2
    seen = {result.point.name: result for result in folder().results()}
    assert [seen[name].measured.disturbed for name in ("once", "always")] == [False, True]  # type: ignore[union-attr]
    assert seen["always"].doubtful
    assert "this is the second" in " ".join(seen["once"].notes)
