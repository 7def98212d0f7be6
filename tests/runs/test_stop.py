"""`stop` ends what is the run's, and nothing else."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from overspan.launchers import proc
from overspan.runs.stop import stop
from overspan.store.run_folder import RunFolder
from support.runs import a_plan, fake_run


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize(("boot", "lives"), [("an earlier boot", True), (proc.boot_id(), False)])
def test_a_session_id_of_an_earlier_boot_is_somebody_elses_now(boot: str, ended: bool, lives: bool) -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        try:
            run = RunFolder.create("crashed")
            run.write("plan.json", a_plan(1))
            born = psutil.Process(process.pid).create_time()
            # Its supervisor is gone: that process id is nobody's now.
            record = {"pid": 2**22 + 1, "started_at": born, "session": process.pid, "guardian": 1, "boot": boot}
            run.record("supervisor.json", record)
            run.append("verified", state="verified")
            if ended:
                run.append("stopped", state="stopped")
            assert stop(run) is not ended
            assert (process.poll() is None) is lives
            assert run.state() == "stopped"
        finally:
            process.kill()


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda file: file.write_text('{"pid": '), lambda file: file.write_text('{"pid": 5}')],
    ids=["gone", "half", "without the session"],
)
def test_a_run_whose_supervisor_is_not_on_record_any_more_is_stopped_whole(damage: Callable[[Path], object]) -> None:
    run = fake_run("forgotten", "Paris")
    family = run.whole_family()
    damage(run.folder.path / "supervisor.json")
    try:
        assert stop(run.folder)
        assert run.folder.last_state().message == "stopped"
        assert not [kind for kind, process in family.items() if proc.is_alive(process)]
    finally:
        for process in family.values():
            proc.send([process], 9)
