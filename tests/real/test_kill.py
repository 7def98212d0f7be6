"""`kill -9` of any process of a real engine's run ends the run with its cause, and leaves no orphan.

Two of the five are in the longer tests: each costs a start of the engine, and tests/runs kills each over a fake one."""

from collections.abc import Callable

import pytest

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
        ("supervisor", "the supervisor was ended by signal 9"),
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
