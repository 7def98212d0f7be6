"""A run on a real Slurm, then broken on purpose. Each fault ends in a clear state with its cause and leaves nothing."""

import json
import signal

import psutil
import pytest

from overspan.store.run_folder import all_runs
from slurm.conftest import Rack, failed
from support.waiting import until

pytestmark = pytest.mark.real


def test_up_status_chat_then_found_again_and_stopped(rack: Rack) -> None:
    done = rack.up("--json")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    assert sorted((each["process"], each["host"], each["health"]) for each in now["processes"]) == [
        ("api", "a", "running"),
        ("worker1", "b", "running"),
    ]
    run = all_runs()[0]
    assert rack.run("chat", "-p", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    assert "headless" in rack.run("logs", "-p", "worker1").stdout
    # A controller that restarts is no death: the job goes on and so does the run.
    rack.slurm.stop_controller()
    unknown = rack.run("status", "--json")
    assert "controller" in "".join(json.loads(unknown.stdout)["unreachable"].values())
    assert run.state() == "verified"
    rack.slurm.start_controller()
    rack.slurm.run("scontrol", "ping")
    assert run.state() == "verified"
    # The machine that watched is gone; the job is found from any shell, and stopped from there.
    rack.kill_ours(run)
    assert len(rack.of_run()) == 1
    assert rack.run("status").returncode != 0
    assert rack.run("stop").returncode == 0
    rack.nothing_left()
    assert run.state() == "stopped"
    assert rack.run("stop").returncode == 0


def test_queued_then_served_then_cancelled_from_outside(rack: Rack) -> None:
    other = rack.occupy(4)
    run = rack.submit()
    until(lambda: "is queued: Resources" in run.last_state().message, "the queue's reason")
    now = json.loads(rack.run("status", "--json").stdout)
    assert (now["state"], now["ready"]) == ("launching", False)
    rack.slurm.run("scancel", other)
    until(lambda: run.state() == "verified", "the known answer")
    rack.slurm.run("scancel", rack.of_run()[0].split()[0])
    last = failed(run)
    assert "was cancelled from outside (scancel): Slurm's state CANCELLED" in last.message
    assert any("CANCELLED AT" in line for line in last.data["lines"]), last.data
    rack.nothing_left()


def test_cancelled_and_node_lost_while_queued(rack: Rack) -> None:
    data = {"nodes": "named"}
    rack.inventory.write_text(
        rack.inventory.read_text().replace("name: a", "name: node1").replace("name: b", "name: node2")
    )
    rack.change(**data)
    other = rack.occupy(1, "--nodelist=node1")
    run = rack.submit()
    rack.bed.hosts[1].power_off()
    until(lambda: "UnavailableNodes:node2" in run.last_state().message, "Slurm's word on the node")
    rack.slurm.run("scancel", rack.of_run()[0].split()[0])
    last = failed(run)
    assert "was cancelled from outside" in last.message
    assert "JobState=CANCELLED" in last.data["lines"][0]
    rack.bed.hosts[1].power_on()
    rack.slurm.run("scancel", other)
    rack.nothing_left()


@pytest.mark.parametrize("when", ["loading", "serving"])
def test_a_node_that_fails_is_named(rack: Rack, when: str) -> None:
    run = rack.submit(*(["--set", "env.FAKE_LOAD_S=600"] if when == "loading" else []))
    until(lambda: run.state() == "verified" or (when == "loading" and rack.of_host(1)), when)
    rack.bed.hosts[1].power_off()
    last = failed(run)
    assert "a node failed: Slurm's state NODE_FAIL" in last.message
    assert "node2 is down" in last.message
    assert (last.process, last.host) == ("worker1", "b")
    assert last.data["lines"]
    rack.bed.hosts[1].power_on()
    rack.nothing_left()


def test_time_limit_and_preemption(rack: Rack) -> None:
    rack.change(time_limit="10:00")
    run = rack.submit()
    until(lambda: run.state() == "verified", "the known answer")
    rack.slurm.run("scontrol", "update", f"JobId={rack.of_run()[0].split()[0]}", "EndTime=now")
    last = failed(run)
    assert "reached its time limit" in last.message
    assert any("DUE TO TIME LIMIT" in line for line in last.data["lines"]), last.data
    rack.nothing_left()

    run = rack.submit()
    until(lambda: run.state() == "verified", "the known answer")
    other = rack.occupy(4, "--partition=urgent")
    last = failed(run)
    assert "preempted by a job of higher priority" in last.message
    assert any("DUE TO PREEMPTION" in line for line in last.data["lines"]), last.data
    rack.slurm.run("scancel", other)
    rack.nothing_left()


def test_a_rank_that_dies_is_named_with_its_code_and_lines(rack: Rack) -> None:
    rack.change(
        login={
            "address": rack.bed.hosts[3].address,
            "user": "root",
            "identity_file": str(rack.bed.client / "id_ed25519"),
            "known_hosts": str(rack.bed.client / "known_hosts"),
        }
    )
    done = rack.up()  # over ssh, through a tunnel
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:" in done.stdout + done.stderr
    run = all_runs()[0]
    worker = rack.of_host(1)[0]
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker], timeout=30)
    last = failed(run)
    assert (last.process, last.host) == ("worker1", "b")
    assert "signal 9" in last.message
    assert any("headless" in line for line in last.data["lines"])
    rack.nothing_left()


def test_what_slurm_refuses_is_told_before_anything_is_queued(rack: Rack) -> None:
    rack.change(partition="nowhere")
    done = rack.up()
    assert done.returncode == 2, done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    rack.change(partition="batch", folder="/proc/overspan")
    done = rack.up()
    assert done.returncode == 2, done.stderr
    assert "/proc/overspan" in done.stderr
    assert not all_runs()
    rack.nothing_left()


@pytest.mark.parametrize("value", ["a'; touch {0} # {{node:a}}`touch {0}`", "$(touch {0})"])
def test_a_recipes_value_never_runs(rack: Rack, value: str) -> None:
    trap = rack.shared / "overspan-was-here"
    evil = value.format(trap)
    done = rack.up("--set", f"env.EVIL={evil}", "--set", f"served_model_name={evil}")
    # A reference that nothing fills in is refused by the plan; anything else is text to the end.
    assert done.returncode == (2 if "$(" in value else 0), done.stderr
    assert not trap.exists()
