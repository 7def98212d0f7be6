"""Two hosts broken on purpose: each fault names its host and cause, quotes what shows it, and leaves nothing behind.

That nothing is left on either host (containers, processes, shared memory) is asserted by the fixture `bed` after each.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress

import psutil
import pytest
import yaml

from hosts.conftest import Cluster
from overspan.store.run_folder import all_runs
from support.waiting import until
from testbed.host import Host

pytestmark = pytest.mark.real

LOADING = ("--set", "env.FAKE_LOAD_S=600")


def process_on(host: Host, word: str) -> psutil.Process:
    """The process with a word in its command line that a container of the host holds, and not the container's init."""

    def is_it(one: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return one.name() != "docker-init" and word in " ".join(one.cmdline())
        return False

    return min(filter(is_it, host.processes()), key=lambda one: one.pid)


def test_a_worker_killed_while_it_loads(cluster: Cluster) -> None:
    with cluster.start("up", str(cluster.recipe), "--on", str(cluster.inventory), *LOADING) as up:
        until(lambda: len(cluster.containers()) == 2, "both containers")
        log = cluster.newest().logs / "worker1.log"
        until(lambda: log.exists() and "Loading weights" in log.read_text(), "the worker's first line")
        process_on(cluster.bed.hosts[1], "--headless").kill()
        said = up.communicate()[1]
    assert up.returncode == 1
    assert "worker1 (container" in said
    assert "on node2 was ended by signal 9 (rank 1)" in said
    assert "INFO Loading weights: 40%" in said
    last = cluster.newest().last_state()
    assert (last.state, last.process, last.host) == ("failed", "worker1", "node2")
    assert not cluster.containers()


@pytest.mark.parametrize(("process", "host", "word"), [("worker1", 1, "--headless"), ("api", 0, "fake_engine.py")])
def test_a_rank_killed_when_ready_ends_the_gang_and_is_named(
    cluster: Cluster, process: str, host: int, word: str
) -> None:
    assert cluster.up().returncode == 0
    run = cluster.newest()
    process_on(cluster.bed.hosts[host], word).kill()
    until(lambda: run.state() == "failed", "the state failed")
    cluster.nothing_left()
    last = run.last_state()
    assert (last.process, last.host) == (process, cluster.bed.hosts[host].name)
    assert f"signal 9 (rank {host})" in last.message
    (told,) = [event for event in run.events() if event.message.endswith("ending the others")]
    assert told.data["ranks"] == [host]
    assert told.data["lines"] == last.data["lines"]
    assert last.data["lines"][-1] in (run.logs / f"{process}.log").read_text()
    assert cluster.run("status").returncode == 3


def test_launcher_killed_half_way_and_stop_from_another_shell(cluster: Cluster) -> None:
    with cluster.start("up", str(cluster.recipe), "--on", str(cluster.inventory), *LOADING) as up:
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
    assert "the supervisor was ended by signal 9" in run.last_state().message


Fault = Callable[[Cluster], AbstractContextManager[object]]


def wrong_interface(cluster: Cluster) -> AbstractContextManager[object]:
    cluster.change_host(1, fabric={"interface": "enp1s0f0np0", "address": cluster.bed.hosts[1].address})
    return nullcontext()


def port_taken_on_second(cluster: Cluster) -> AbstractContextManager[object]:
    """The second host is the head here: it is where ports are needed."""
    hosts = yaml.safe_load(cluster.inventory.read_text())["hosts"]
    cluster.change(hosts=hosts[::-1])
    taken = ExitStack()
    taken.enter_context(cluster.bed.hosts[0].port_taken(cluster.port))  # of the other host, where nobody needs it
    taken.enter_context(cluster.bed.hosts[1].port_taken(29501))
    return taken


def mtu_of_second(cluster: Cluster) -> AbstractContextManager[object]:
    return cluster.bed.hosts[1].mtu(1400)


def gone_at_the_start(cluster: Cluster) -> AbstractContextManager[object]:
    cluster.change_host(1, ssh={"address": cluster.bed.unreachable_address})
    return nullcontext()


def changed_host_key(cluster: Cluster) -> AbstractContextManager[object]:
    return cluster.bed.hosts[1].new_host_key()


@pytest.mark.parametrize(
    ("fault", "code", "told", "quoted"),
    [
        (
            wrong_interface,
            2,
            "preflight.interface on node2: node2 has no interface enp1s0f0np0 (from fabric.interface); it has eth0",
            "eth0 (",
        ),
        (port_taken_on_second, 2, "preflight.port on node2: master port 29501 on node2 is taken by", ":29501"),
        (mtu_of_second, 2, "preflight.mtu on node1: ", "0 of 3 packets of 1500 bytes came back from"),
        (gone_at_the_start, 4, "preflight.ssh on node2: node2", "ssh: connect to host"),
        (changed_host_key, 4, "preflight.host_key on node2: the host key of node2", "Offending"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_told_before_anything_starts(cluster: Cluster, fault: Fault, code: int, told: str, quoted: str) -> None:
    with fault(cluster):
        done = cluster.up()
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    (quote,) = [line for line in done.stderr.splitlines() if line.startswith("  | ")]
    assert quoted in quote
    assert "\nnext: " in done.stderr
    assert not cluster.containers()
    assert not all_runs(), "nothing was begun"
