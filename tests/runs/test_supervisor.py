"""One `kill -9` of any process of a run ends the run, with its cause, and leaves no orphan."""

import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from overspan.doctor.of_run import examine
from overspan.endpoint.client import Client
from overspan.launchers import proc
from overspan.runs import supervisor
from overspan.runs.status import status
from overspan.runs.stop import stop
from overspan.runs.up import verified
from overspan.schema.errors import NotReady, OverspanError, RunFailed
from overspan.schema.event import Event
from overspan.store.run_folder import RunFolder
from support.runs import ENGINE, KNOWN, FakeRun, kill
from support.waiting import until

Launch = Callable[..., FakeRun]


def test_a_right_answer_verifies_the_run(launch: Launch) -> None:
    run = launch()
    assert run.wait_for("verified", "failed") == "verified"
    assert [finding.status for finding in run.folder.findings()] == ["passed"]
    states = [event.state for event in run.folder.events() if event.state]
    assert states == ["planned", "launching", "ready", "verified"]


def test_a_wrong_answer_fails_the_run_and_ends_it(launch: Launch) -> None:
    run = launch("wrong", "L'Etoile")
    assert run.wait_for("verified", "failed") == "failed"
    finding = run.folder.findings()[0]
    assert finding.status == "failed"
    assert finding.evidence is not None
    assert "L'Etoile" in finding.evidence.text
    run.nothing_left()


def test_of_weights_that_were_drawn_no_answer_is_asked_and_none_verified(launch: Launch) -> None:
    run = launch("drawn", "L'Etoile", engine_args={"load_format": "dummy"})
    last: list[Event | None] = []
    verified(run.folder, lambda _, events: last.extend(events))  # as `up` waits: it ends
    assert run.state() == "ready"
    assert "nothing was verified: the weights were drawn" in run.folder.last_state().message
    assert [finding.status for finding in run.folder.findings()] == ["not_evaluated"]
    kill(run.whole_family()["Worker"])
    assert run.wait_for("failed") == "failed", "it is watched as any run is"
    run.nothing_left()


def test_an_engine_that_never_gives_a_token_is_quoted(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANTS", "a key which nobody knows")
    run = launch("refusing", ready_timeout_s=6)
    assert run.wait_for("verified", "failed") == "failed"
    last = run.folder.last_state()
    assert last.message.startswith("no token within 6 s")
    (line,) = last.data["lines"]
    assert "answered HTTP 401" in line or "does not answer" in line  # the latter where the machine is busy
    run.nothing_left()


def test_a_refused_request_is_told_while_up_waits_and_is_why_it_ends(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "/v1/completions")
    run = launch("mute", ready_timeout_s=6)
    assert run.wait_for("verified", "failed") == "failed"
    told = [event.message for event in run.folder.events() if "refuses a request" in event.message]
    assert len(told) == 1 and "HTTP 500" in told[0], "once, and not at each request"
    assert "HTTP 500" in run.folder.last_state().data["lines"][0]


def test_what_no_waiting_mends_ends_the_wait(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "/v1/completions")
    run = launch("refused", ready_timeout_s=120)
    until(lambda: any("refuses a request" in event.message for event in run.folder.events()), "the refusal")
    monkeypatch.setattr(supervisor, "_FINAL_S", 0.3)
    with pytest.raises(OverspanError, match="refused each request") as raised:
        supervisor._probe(run.folder, run.folder.plan(), {}, queue.SimpleQueue(), threading.Event())
    assert "HTTP 500" in (raised.value.quote or "")
    stop(run.folder)


@pytest.mark.parametrize(("asked", "state"), [(True, "failed"), (False, "ready")])
def test_a_template_that_fails_every_chat_is_never_verified(
    launch: Launch, monkeypatch: pytest.MonkeyPatch, asked: bool, state: str
) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "/v1/chat/completions")
    run = launch("template", known_answers=KNOWN if asked else [])
    until(lambda: any(event.settles for event in run.folder.events()), "a verdict")
    last = run.folder.last_state()
    assert last.state == state and "HTTP 500" in last.message + str(last.data)
    assert "the model's answer is wrong" not in last.message


def test_up_of_a_run_that_somebody_stops_is_not_ready(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_REFUSES", "/v1/completions")
    run = launch("stopped-elsewhere", ready_timeout_s=120)

    def follow(folder: RunFolder, events: Iterator[Event | None]) -> None:
        threading.Thread(target=stop, args=(folder,)).start()
        deque(events, maxlen=0)

    with pytest.raises(NotReady, match="was stopped from elsewhere") as raised:
        verified(run.folder, follow)
    assert raised.value.exit_code == 3 and run.state() == "stopped"


def test_the_right_answer_of_somebody_elses_server_is_none(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_HOST", "127.0.0.2")  # the engine is up, and not where it was to be
    run = launch("elsewhere", ready_timeout_s=6)
    port = run.folder.plan().endpoint.port
    other = subprocess.Popen(
        [sys.executable, str(ENGINE), str(port)], env={**os.environ, "FAKE_HOST": "127.0.0.1"}, start_new_session=True
    )
    try:
        assert run.wait_for("verified", "failed") == "failed"
        (line,) = run.folder.last_state().data["lines"]
        assert line.startswith(f"port {port} on 127.0.0.1 is answered by ")
        assert line.endswith(f"(pid {other.pid}), which is not of this run")
        run.nothing_left()
        assert other.poll() is None, "a stranger is left alone"
    finally:
        for process in proc.in_session(other.pid):
            kill(process)
        other.wait()


@pytest.mark.parametrize(
    ("victim", "died_first"),
    [
        ("Worker", "VLLM::Worker"),
        ("EngineCore", "VLLM::EngineCore"),
        ("api", "api (pid"),
        ("supervisor", "the supervisor was ended by signal 9"),
        ("guardian", "the guardian was killed"),
    ],
)
def test_kill_of_any_process_fails_the_run_and_leaves_no_orphan(launch: Launch, victim: str, died_first: str) -> None:
    run = launch()
    family = run.whole_family()
    kill(family[victim])
    run.wait_for("failed")
    run.nothing_left()
    last = run.folder.last_state()
    assert died_first in last.message
    assert status(run.folder).ready is False


def test_stop_ends_a_child_that_left_the_session_when_the_supervisor_is_stuck(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_LEAVES", str(tmp_path / "pid"))
    run = launch()
    family = run.whole_family()
    stray = psutil.Process(int((tmp_path / "pid").read_text()))
    assert os.getsid(stray.pid) != os.getsid(family["supervisor"].pid)
    family["supervisor"].suspend()
    stop(run.folder, grace_s=0)
    run.nothing_left()
    until(lambda: not proc.is_alive(stray), "the end of the child")


def test_the_event_quotes_the_last_lines_of_the_one_that_died_first(launch: Launch) -> None:
    run = launch()
    core = run.whole_family()["EngineCore"]
    kill(core)
    run.wait_for("failed")
    assert run.folder.last_state().data["lines"] == [f"(EngineCore pid={core.pid}) INFO the core is up"]


def test_exit_code_0_is_a_death(launch: Launch) -> None:
    run = launch()
    worker_parent = run.whole_family()["EngineCore"]
    kill(worker_parent)
    run.wait_for("failed")


def test_supervisor_and_guardian_killed_together_is_told_and_stop_ends_the_rest(launch: Launch) -> None:
    run = launch()
    family = run.whole_family()
    family["guardian"].suspend()  # so that it cannot clean up between the two kills
    kill(family["supervisor"])
    kill(family["guardian"])
    until(lambda: not status(run.folder).ready, "the loss of the supervisor")
    now = status(run.folder)
    assert now.state == "failed"
    assert f"the supervisor (pid {family['supervisor'].pid}) died without recording why; last event " in now.message
    assert next((one.rule, one.status) for one in examine(run.folder)) == ("run-supervision-killed", "failed")
    stop(run.folder)
    run.nothing_left()
    assert run.state() == "stopped"
    assert examine(run.folder)[0].rule == "run-supervision-killed", "a stop afterwards does not hide it"


def test_the_doctor_names_what_the_supervisor_saw_with_its_host(launch: Launch) -> None:
    run = launch()
    kill(run.whole_family()["Worker"])
    assert run.wait_for("failed") == "failed"
    root = examine(run.folder)[0]
    assert (root.rule, root.is_error) in {("run-process-killed", True), ("run-process-gone", True)}
    assert root.evidence is not None and root.evidence.host == "here"


def test_up_does_not_wait_for_a_run_that_nobody_owns(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANTS", "a key which nobody knows")  # it will never be verified

    def follow(_: RunFolder, events: Iterator[Event | None]) -> None:
        deque(events, maxlen=0)

    run = launch("orphaned")
    until(lambda: {"guardian", "supervisor", "Worker"} <= run.family().keys(), "the family")
    family = run.family()
    family["guardian"].suspend()
    kill(family["supervisor"])
    kill(family["guardian"])
    with pytest.raises(RunFailed, match=r"the supervisor \(pid \d+\) died without recording why"):
        verified(run.folder, follow)
    run.nothing_left()
    assert run.state() == "stopped"


def test_stop_lets_a_stream_in_flight_end(launch: Launch) -> None:
    run = launch("slow", "Paris", "0.1")
    run.whole_family()
    pieces: list[str] = []
    client = Client(run.folder.plan().endpoint)
    stream = client.stream([{"role": "user", "content": "count"}], max_tokens=20)
    pieces.append(next(stream))
    stopper = threading.Thread(target=stop, args=(run.folder,))
    stopper.start()
    pieces.extend(stream)
    stopper.join()
    assert pieces == [f"{number} " for number in range(20)]
    assert run.state() == "stopped"
    run.nothing_left()


def test_stop_twice_is_fine(launch: Launch) -> None:
    run = launch()
    run.wait_for("verified")
    assert stop(run.folder) is True
    run.nothing_left()
    assert stop(run.folder) is False
    assert run.state() == "stopped"


def test_a_recipe_that_asks_for_it_is_restarted_and_then_fails(launch: Launch) -> None:
    run = launch("again", restart=1)
    kill(run.whole_family()["Worker"])
    until(lambda: [event.state for event in run.folder.events()].count("verified") == 2, "the second verdict")
    states = [event.state for event in run.folder.events() if event.state]
    assert states[4:] == ["restarting", "launching", "ready", "verified"]
    assert any("VLLM::Worker" in event.message for event in run.folder.events())
    kill(run.whole_family()["api"])
    run.wait_for("failed")
    run.nothing_left()


def test_stop_while_a_restart_waits(launch: Launch) -> None:
    run = launch("waiting", restart=5)
    kill(run.whole_family()["api"])
    run.wait_for("restarting")
    stop(run.folder)
    run.nothing_left()
    assert run.state() == "stopped"


@pytest.mark.parametrize("end", ["\u0085", "\u2028"])
def test_a_first_answer_that_holds_an_end_of_lines_leaves_a_run_that_can_be_shown_and_stopped(
    launch: Launch, end: str
) -> None:
    run = launch("unstoppable", f"Paris{end}is it")
    assert run.wait_for("verified", "failed") == "verified"
    assert status(run.folder).ready
    assert stop(run.folder) is True
    run.nothing_left()


def test_a_run_whose_events_are_damaged_is_shown_and_stopped(launch: Launch) -> None:
    run = launch()
    pid = run.whole_family()["supervisor"].pid
    (run.folder.path / "events.jsonl").write_bytes(b"\xff garbage\nmore\n")
    now = status(run.folder)
    assert (now.state, now.ready) == ("launching", False)
    assert now.message == f"the supervisor (pid {pid}) is alive, but events.jsonl tells no state"
    assert [each.health for each in now.processes] == ["running"]
    assert stop(run.folder) is True
    run.nothing_left()
    assert run.state() == "stopped"


@pytest.mark.parametrize("damage", ['{"pid": ', '{"members": [5]}', '{"members": 5}', "[]"])
def test_a_run_whose_record_of_processes_is_damaged_is_shown(launch: Launch, damage: str) -> None:
    run = launch()
    run.whole_family()
    file = run.folder.path / "supervisor.json"
    whole = file.read_text()
    file.write_text(damage)
    now = status(run.folder)
    assert (now.state, now.ready, [each.health for each in now.processes]) == ("verified", True, ["unknown"])
    assert f"run {run.folder.id}: supervisor.json is damaged: " in now.message
    file.write_text(whole)


def test_the_guardian_ends_a_run_whose_events_and_plan_are_damaged(launch: Launch) -> None:
    run = launch()
    supervisor, plan = run.whole_family()["supervisor"], run.folder.plan()
    for file in ("events.jsonl", "plan.json"):
        (run.folder.path / file).write_text("garbage\n")
    kill(supervisor)
    until(lambda: run.folder.ended, "the guardian's word")
    run.nothing_left()
    last = run.folder.last_state()
    assert last.message.startswith("the supervisor was ended by signal 9")
    assert "plan.json is damaged" in str(last.data["left"])
    run.folder.write("plan.json", plan)
