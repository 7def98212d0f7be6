"""Head and worker started apart, each by a shell on its own host; real Docker and network, a fake engine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from hosts.conftest import Cluster
from support.fake_env import make_model, make_recipe
from support.shell import Done
from support.waiting import until
from testbed import image
from testbed.host import Host

pytestmark = pytest.mark.real

STATE = "/srv/state"


@dataclass
class Shell:
    """A user's shell on one of the hosts."""

    host: Host

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = self.host.inside([sys.executable, "-m", "overspan", *arguments])
        env = {**os.environ, "OVERSPAN_STATE": STATE, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
        return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *arguments: str) -> Done:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def status(self) -> dict[str, object]:
        found = json.loads(self.run("status", "--json").stdout)
        assert isinstance(found, dict)
        return found

    def health(self) -> dict[str, str]:
        """Each process's state, as this host sees it."""
        return {each["process"]: each["health"] for each in self.status()["processes"]}  # type: ignore[attr-defined]

    def events(self) -> str:
        """The events of every run of this host."""
        folder = self.host.outside(f"{STATE}/runs")
        return "".join(file.read_text() for file in sorted(folder.glob("*/events.jsonl")))

    def wait_for_event(self, state: str) -> None:
        until(lambda: f'"{state}"' in self.events(), f"the event {state} on {self.host.name}")

    def wait_for_state(self, state: str) -> None:
        until(lambda: self.status()["state"] == state, f"the state {state} on {self.host.name}")


@dataclass
class Pair:
    """Two hosts with the same recipe, model and inventory on each."""

    cluster: Cluster
    head: Shell
    worker: Shell
    arguments: tuple[str, ...] = ("/srv/tiny.yaml", "--on", "/srv/hosts.yaml")

    def up(self) -> subprocess.Popen[str]:
        """Start the head and wait until it waits."""
        started = self.head.start("up", *self.arguments, "--join-later", "--json")
        until(lambda: started.poll() is not None or "waiting for node2" in self.head.events(), "the head to wait")
        return started

    def join(self, *more: str, head: str = "node1") -> Done:
        return self.worker.run("join", head, *self.arguments, *more)

    def containers(self) -> list[str]:
        """The one container of each host."""
        found = [host.docker("ps", "--quiet").split() for host in self.cluster.bed.hosts]
        assert all(len(ids) == 1 for ids in found), found
        return [ids[0] for ids in found]

    def nothing_left(self) -> None:
        self.cluster.nothing_left()
        until(lambda: not self.cluster.bed.orphans(), "the end of every process")


@pytest.fixture
def pair(cluster: Cluster) -> Iterator[Pair]:
    recipe = make_recipe(cluster.folder / "of-hosts.yaml", Path("/srv/model"), f"image: {image.NAME}\nlayout: pp2\n")
    recipe.write_text(recipe.read_text().replace("port: 0", "port: 8020"))
    model = make_model(cluster.folder / "model-of-hosts")
    inventory = yaml.safe_load(cluster.inventory.read_text())
    for host in cluster.bed.hosts:
        shutil.copytree(model, host.outside("/srv/model"))
        shutil.copy(recipe, host.outside("/srv/tiny.yaml"))
        host.outside("/srv/hosts.yaml").write_text(yaml.safe_dump(inventory))
    head, worker = (Shell(host) for host in cluster.bed.hosts)
    pair = Pair(cluster, head, worker)
    yield pair
    for shell in (pair.worker, pair.head):
        shell.run("stop", "--grace", "0")
    pair.nothing_left()


def finished(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess((), process.returncode, out, err)


def test_a_head_and_a_worker_started_apart_serve_and_stop_together(pair: Pair) -> None:
    early = pair.join()
    assert early.returncode == 4, early.stderr
    assert "node1" in early.stderr
    assert "--join-later" in early.stderr
    with pair.up() as started:
        assert pair.head.health() == {"worker1": "awaited", "api": "not started"}
        other = pair.join("--set", "env.MODE=fast")
        assert other.returncode == 2, other.stderr
        assert "recipe.env.MODE: none on node1, fast here" in other.stderr
        joined = pair.join()
        assert joined.returncode == 0, joined.stderr
        up = finished(started)
    assert up.returncode == 0, up.stderr
    assert pair.head.health() == {"api": "running", "worker1": "running"}
    assert pair.worker.health() == {"worker1": "running"}
    assert pair.worker.run("status").returncode == 0
    assert "headless" in pair.worker.run("logs").stdout
    assert pair.head.run("chat", "-p", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    again = pair.join("--name", "twice")
    assert again.returncode == 2, again.stderr
    assert "node2 has joined already" in again.stderr
    assert pair.head.run("stop").returncode == 0
    pair.worker.wait_for_state("stopped")
    pair.nothing_left()


@pytest.mark.parametrize(
    "killed", ["worker", pytest.param("head", marks=pytest.mark.slow), pytest.param("left", marks=pytest.mark.slow)]
)
def test_a_death_on_either_host_ends_both_and_is_named_on_both(pair: Pair, killed: str) -> None:
    with pair.up() as started:
        assert pair.join(head=pair.cluster.bed.hosts[0].address).returncode == 0
        assert finished(started).returncode == 0
    place, process = ("node1", "api") if killed == "head" else ("node2", "worker1")
    if killed == "left":
        assert pair.worker.run("stop", "--grace", "0").returncode == 0
    else:
        host = pair.cluster.bed.hosts[0 if killed == "head" else 1]
        (name,) = host.docker("ps", "--format", "{{.Names}}").split()
        host.docker("kill", name)
    pair.head.wait_for_state("failed")
    ended = "stopped" if killed == "left" else "failed"
    pair.worker.wait_for_state(ended)
    assert process in str(pair.head.status()["message"])
    assert place in str(pair.head.status()["message"])
    if killed != "left":
        assert place in str(pair.worker.status()["message"])
    pair.nothing_left()


@pytest.mark.slow
def test_a_recipe_that_asks_for_it_restarts_both_hosts(pair: Pair) -> None:
    for host in pair.cluster.bed.hosts:
        with host.outside("/srv/tiny.yaml").open("a") as recipe:
            recipe.write("restart: 1\n")
    with pair.up() as started:
        assert pair.join().returncode == 0
        assert finished(started).returncode == 0
    first = pair.containers()
    pair.cluster.bed.hosts[1].docker("kill", first[1])
    for shell in (pair.head, pair.worker):
        shell.wait_for_event("restarting")
        shell.wait_for_state("verified")
    second = pair.containers()
    assert not set(first) & set(second), "both hosts' containers are ended and started anew"
    assert pair.head.run("chat", "-p", "count", "--max-tokens", "3").stdout == "0 1 2 \n"
    pair.cluster.bed.hosts[1].docker("kill", second[1])
    for shell in (pair.head, pair.worker):
        shell.wait_for_state("failed")
    assert "worker1" in str(pair.head.status()["message"])
    pair.nothing_left()


@pytest.mark.slow
def test_a_cut_cable_is_no_death_and_a_dead_supervisor_is(pair: Pair) -> None:
    with pair.up() as started:
        assert pair.join().returncode == 0
        assert finished(started).returncode == 0
    with pair.cluster.bed.hosts[1].cut():
        until(lambda: pair.head.health()["worker1"] == "unknown", "the head to miss node2")
        assert pair.head.status()["state"] == "verified"
    until(lambda: pair.head.health()["worker1"] == "running", "node2 to be back")
    (record,) = pair.cluster.bed.hosts[1].outside(f"{STATE}/runs").glob("*/supervisor.json")
    pair.cluster.bed.hosts[1].run("kill", "-9", str(json.loads(record.read_text())["pid"]))
    pair.head.wait_for_state("failed")
    assert "worker1" in str(pair.head.status()["message"]) or "supervisor" in str(pair.head.status()["message"])
    pair.nothing_left()
