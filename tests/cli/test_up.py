"""`overspan up` as a user runs it, over a fake engine: what it starts, and what is left when it is interrupted."""

import json
import signal
import time

import pytest

from cli.conftest import Shell
from support.waiting import until


def test_up_status_chat_stop(shell: Shell) -> None:
    done = shell.run("up", str(shell.recipe), "--json")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    assert (now["state"], now["ready"]) == ("verified", True)
    assert shell.run("status").returncode == 0
    assert shell.run("chat", "--prompt", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    assert "the core is up" in shell.run("logs", "-p", "api").stdout
    assert shell.run("stop").returncode == 0
    assert shell.run("stop").returncode == 0
    assert shell.run("status").returncode == 3
    until(lambda: not shell.processes(), "the end of every process")


def test_logs_follow_until_the_run_ends(shell: Shell) -> None:
    assert shell.run("up", str(shell.recipe)).returncode == 0
    with shell.start("logs", "-f") as follower:
        assert follower.stdout is not None
        first = follower.stdout.readline()
        shell.run("stop")
        rest = follower.stdout.read()
        assert follower.wait(timeout=30) == 0
    assert "started" in first
    assert "the core is up" in rest


def test_a_death_while_loading_is_told_with_its_last_lines(shell: Shell) -> None:
    done = shell.run("up", str(shell.recipe), FAKE_DIES="ValueError: no such kernel")
    assert done.returncode == 1
    assert "ValueError: no such kernel" in done.stderr
    assert "Traceback" not in done.stderr
    assert "overspan logs" in done.stderr
    until(lambda: not shell.processes(), "the end of every process")


def test_a_known_cause_is_told_with_its_fix(shell: Shell) -> None:
    line = (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )
    done = shell.run("up", str(shell.recipe), FAKE_DIES=line)
    assert done.returncode == 1
    assert "cause (" in done.stderr
    assert "api.log, line 1" in done.stderr
    assert "next: " in done.stderr


def test_ctrl_c_while_loading_leaves_nothing(shell: Shell) -> None:
    with shell.start("up", str(shell.recipe), FAKE_LOAD_S="60") as up:
        until(lambda: [run for run in shell.runs() if run.note("supervisor.json")], "the launch")
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=30) == 130
    until(lambda: not shell.processes(), "the end of every process")
    assert shell.runs()[0].state() == "stopped"


@pytest.mark.parametrize("after_s", [0.02, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6])
def test_ctrl_c_at_any_moment_leaves_nothing(shell: Shell, after_s: float) -> None:
    with shell.start("up", str(shell.recipe), FAKE_LOAD_S="60") as up:
        time.sleep(after_s)
        up.send_signal(signal.SIGINT)
        up.wait(timeout=30)
    assert up.returncode not in (0, None)
    until(lambda: not shell.processes(), "the end of every process")
    assert all(run.ended for run in shell.runs())
    again = shell.run("up", str(shell.recipe))
    assert again.returncode == 0, again.stderr


def test_the_run_outlives_the_command_that_started_it(shell: Shell) -> None:
    with shell.start("up", str(shell.recipe), FAKE_LOAD_S="1.5") as up:
        until(lambda: [run for run in shell.runs() if run.note("supervisor.json")], "the launch")
        up.kill()
    until(lambda: shell.runs()[0].state() == "verified", "the verdict")
    assert shell.run("status").returncode == 0


def test_two_ups_of_one_name_at_once(shell: Shell) -> None:
    ups = [shell.start("up", str(shell.recipe), FAKE_LOAD_S="1") for _ in range(3)]
    errors = [up.communicate(timeout=60)[1] for up in ups]
    codes = [up.returncode for up in ups]
    assert sorted(codes) == [0, 2, 2], errors
    (run,) = shell.runs()
    for code, error in zip(codes, errors, strict=True):
        if code == 2:
            assert run.id in error


def test_the_lock_is_a_recipe_that_repeats_the_run(shell: Shell) -> None:
    first = json.loads(shell.run("up", str(shell.recipe), "--json").stdout)
    shell.run("stop")
    lock = shell.runs()[0].path / "run.lock.yaml"
    again = shell.run("up", str(lock), "--json")
    assert again.returncode == 0, again.stderr
    newest, oldest = shell.runs()
    assert newest.processes() == oldest.processes()
    assert json.loads(again.stdout)["endpoint"] == first["endpoint"]


def test_a_lock_of_other_model_files_is_refused(shell: Shell) -> None:
    shell.run("up", str(shell.recipe))
    shell.run("stop")
    (shell.home / "model" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "x"}')
    done = shell.run("up", str(shell.runs()[0].path / "run.lock.yaml"))
    assert done.returncode == 2
    assert "digest" in done.stderr
    assert len(shell.runs()) == 1
