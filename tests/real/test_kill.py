"""`kill -9` of any process of a real engine's run ends the run with its cause, and leaves no orphan.

Three of the five are in the longer tests: each costs a start, and tests/runs kills each over a fake engine."""

from collections.abc import Callable

import pytest

from overspan.launchers import proc
from support.live import Live
from support.runs import kill
from support.waiting import until

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("victim", "died_first"),
    [
        ("Worker", "VLLM::Worker"),
        pytest.param("EngineCore", "VLLM::EngineCore", marks=pytest.mark.slow),
        ("api", "api (pid"),
        pytest.param("supervisor", "the supervisor was ended by signal 9", marks=pytest.mark.slow),
        pytest.param("guardian", "the guardian was killed", marks=pytest.mark.slow),
    ],
)
def test_kill_of_any_process_leaves_no_orphan(live: Callable[..., Live], victim: str, died_first: str) -> None:
    run = live(f"kill-{victim.lower()}")
    family = run.family()
    assert {"guardian", "supervisor", "api", "EngineCore", "Worker"} <= family.keys()
    kill(family[victim])
    until(lambda: run.folder.state() == "failed", "the state failed")
    run.nothing_left()
    last = run.folder.last_state()
    assert died_first in last.message
    if victim in ("Worker", "EngineCore"):
        pid = family[victim].pid
        assert last.data["lines"], "the event quotes nothing"
        assert all(f"pid={pid}" in line for line in last.data["lines"])


def test_guardian_and_supervisor_killed_at_once_leave_no_engine_core(live: Callable[..., Live]) -> None:
    run = live("kill-both")
    family = run.family()
    watchers = [family.pop("guardian"), family.pop("supervisor")]
    for each in watchers:
        each.suspend()  # neither sees the other's end
    for each in watchers:
        kill(each)
    until(lambda: not [each for each in family.values() if proc.is_alive(each)], "the end of the engine")
    last = run.folder.standing()
    assert (last.state, "supervisor" in last.message) == ("failed", True)
