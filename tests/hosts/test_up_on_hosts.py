"""Two hosts, one command; then broken on purpose. Each fault names its host and cause, and leaves nothing behind."""

import json
import os
import signal

import pytest

from hosts.conftest import Cluster
from support.waiting import until

pytestmark = pytest.mark.real


def test_up_status_chat_logs_stop(cluster: Cluster) -> None:
    done = cluster.up("--json")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    assert [(each["process"], each["host"], each["health"]) for each in now["processes"]] == [
        ("api", "node1", "running"),
        ("worker1", "node2", "running"),
    ]
    # The endpoint listens on the head's loopback alone; a tunnel leads there.
    assert now["endpoint"].startswith("http://127.0.0.1:")
    assert cluster.run("chat", "-p", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    assert "headless" in cluster.run("logs", "-p", "worker1").stdout
    assert cluster.run("status").returncode == 0
    assert cluster.run("stop").returncode == 0
    cluster.nothing_left()
    assert cluster.run("stop").returncode == 0
    assert cluster.newest().state() == "stopped"


@pytest.mark.parametrize(("process", "host"), [("worker1", 1), ("api", 0)])
def test_a_rank_killed_ends_the_gang_and_is_named(cluster: Cluster, process: str, host: int) -> None:
    assert cluster.up().returncode == 0
    run = cluster.newest()
    cluster.bed.hosts[host].docker("kill", f"overspan-{run.id}-{process}")
    until(lambda: run.state() == "failed", "the state failed")
    cluster.nothing_left()
    last = run.last_state()
    assert (last.process, last.host) == (process, cluster.bed.hosts[host].name)
    assert "signal 9" in last.message
    assert last.data["lines"]


def test_launcher_killed_half_way_and_stop_from_another_shell(cluster: Cluster) -> None:
    cluster.run("plan", str(cluster.recipe))
    with cluster.start("up", str(cluster.recipe), "--on", str(cluster.inventory)) as up:
        until(lambda: len(cluster.containers()) == 2, "both containers")
        up.send_signal(signal.SIGKILL)
    assert cluster.run("stop").returncode == 0
    cluster.nothing_left()
    assert cluster.newest().state() == "stopped"


def test_supervisor_killed_ends_the_containers(cluster: Cluster) -> None:
    assert cluster.up().returncode == 0
    run = cluster.newest()
    os.kill(run.note("supervisor.json")["pid"], signal.SIGKILL)
    until(lambda: run.state() == "failed", "the state failed")
    cluster.nothing_left()


def test_a_wrong_interface_name_is_told_before_anything_starts(cluster: Cluster) -> None:
    cluster.change_host(1, fabric={"interface": "enp1s0f0np0", "address": cluster.bed.hosts[1].address})
    done = cluster.up()
    assert done.returncode == 2, done.stderr
    assert "preflight.interface on node2" in done.stderr
    assert "enp1s0f0np0" in done.stderr
    assert "eth0" in done.stderr
    assert not cluster.containers()


def test_a_port_taken_on_the_head_is_told_before_anything_starts(cluster: Cluster) -> None:
    with cluster.bed.hosts[0].port_taken(29501):
        done = cluster.up()
    assert done.returncode == 2, done.stderr
    assert "preflight.port on node1" in done.stderr
    assert "29501" in done.stderr
    assert not cluster.containers()


def test_an_mtu_that_does_not_fit_is_told_before_anything_starts(cluster: Cluster) -> None:
    with cluster.bed.hosts[1].mtu(1400):
        done = cluster.up()
    assert done.returncode == 2, done.stderr
    assert "preflight.mtu" in done.stderr
    assert not cluster.containers()


def test_a_host_that_is_gone_at_the_start(cluster: Cluster) -> None:
    data = {"address": cluster.bed.unreachable_address}
    cluster.change_host(1, ssh=data)
    done = cluster.up()
    assert done.returncode == 4, done.stderr
    assert "node2" in done.stderr
    assert not cluster.containers()


def test_a_changed_host_key_is_refused_with_sshs_line(cluster: Cluster) -> None:
    with cluster.bed.hosts[1].new_host_key():
        done = cluster.up()
    assert done.returncode in (2, 4), done.stderr
    assert "preflight.host_key on node2: the host key of node2" in done.stderr
    assert "next: " in done.stderr
    assert not cluster.containers()


def test_image_and_model_that_differ_are_copied_once(cluster: Cluster) -> None:
    cluster.bed.hosts[1].docker("image", "rm", "overspan-testbed:1")
    done = cluster.up()
    assert done.returncode == 0, done.stderr
    assert "was copied to node2" in done.stderr
    assert "files of the model were copied to node2" in done.stderr
    cluster.run("stop")
    again = cluster.up()
    assert again.returncode == 0, again.stderr
    assert "copied" not in again.stderr


def test_a_host_cut_off_while_running_is_no_death_and_stop_says_so(cluster: Cluster) -> None:
    assert cluster.up().returncode == 0
    run = cluster.newest()
    with cluster.bed.hosts[1].cut():
        now = cluster.run("status", "--json")
        assert now.returncode == 4, now.stdout
        assert "node2" in json.loads(now.stdout)["unreachable"]
        assert run.state() == "verified"
        stopped = cluster.run("stop", "--grace", "0")
        assert stopped.returncode == 4, stopped.stderr
        assert "node2" in stopped.stderr
    assert cluster.run("stop").returncode == 0
    cluster.nothing_left()


@pytest.mark.parametrize("value", ["a'; touch /tmp/overspan-was-here #", "$(touch /tmp/overspan-was-here)"])
def test_a_recipes_value_never_runs(cluster: Cluster, value: str) -> None:
    cluster.up("--set", f"env.EVIL={value}", "--set", f"served_model_name={value}")
    cluster.run("stop", "--grace", "0")
    for host in cluster.bed.hosts:
        assert not host.outside("/tmp/overspan-was-here").exists()
