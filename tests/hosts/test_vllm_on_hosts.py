"""Real vLLM, a pipeline over two real hosts, through `overspan up`: started once, everything asked of that start."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from hosts.conftest import Cluster
from overspan.launchers import proc
from overspan.provision import engines
from overspan.schema.errors import EngineMissing, RunDamaged
from overspan.store.run_folder import RunFolder, all_runs
from support.waiting import until
from testbed import image

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

LONG_STREAM = 2000
"""Tokens, some 40 s of them on an idle machine: the stream is in flight when the worker is killed."""


@pytest.fixture
def real(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with the CPU engine and SmolLM2 in place of the fake ones."""
    try:
        engine = engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    data = cluster.bed.inventory(engine=engine.path).model_dump(mode="json")
    cluster.change(hosts=data["hosts"], engine_environment=str(engine.path))
    yield cluster


def _is_launching() -> bool:
    """Whether the newest run is: one that was made this moment tells no state yet."""
    try:
        return bool(all_runs()) and all_runs()[0].state() == "launching"
    except RunDamaged:
        return False


def launching(cluster: Cluster, up: subprocess.Popen[str]) -> RunFolder:
    """The run, once its ranks start; before that the model may have to be prepared, and copied to the hosts."""
    until(lambda: up.poll() is not None or _is_launching(), "the launch", 600)
    assert up.poll() is None, up.communicate()
    return cluster.newest()


def worker_on(cluster: Cluster, number: int) -> psutil.Process:
    found = []
    for one in cluster.bed.hosts[number].processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # what asks the host from time to time comes and goes
            if "VLLM::Worker" in " ".join(one.cmdline()):
                found.append(one)
    return min(found, key=proc.born)  # a fork of it bears its title for a moment


def test_up_answers_and_a_worker_killed_under_load_ends_all(
    real: Cluster, record_property: Callable[[str, object], None]
) -> None:
    settings = ("--set", "layout=pp2", "--set", f"image={image.NAME}", "--set", f"port={real.port}")
    with real.start("up", "smollm2-135m", "--on", str(real.inventory), *settings, "--json") as up:
        run = launching(real, up)
        assert real.run("status").returncode == 3, "not ready while it loads"
        out, err = up.communicate(timeout=800)
    assert up.returncode == 0, err
    _is_verified(real, run, json.loads(out))
    _dies_under_load(real, run, record_property)


def _is_verified(real: Cluster, run: RunFolder, now: dict[str, object]) -> None:
    assert (now["state"], now["ready"]) == ("verified", True)
    status = real.run("status", "--json")
    assert status.returncode == 0
    members = [(one["process"], one["host"], one["health"]) for one in json.loads(status.stdout)["processes"]]
    assert members == [("api", "node1", "running"), ("worker1", "node2", "running")]
    assert "Paris" in real.run("chat", "-p", "What is the capital of France?", "--max-tokens", "16").stdout
    answer, transport = json.loads((run.path / "verify.json").read_text())
    assert (answer["status"], "Paris" in answer["evidence"]["text"]) == ("passed", True)
    assert (transport["rule"], transport["status"]) == ("nccl.transport", "passed")
    assert "gloo" in transport["cause"]
    assert "backend=gloo" in transport["evidence"]["text"]
    assert [event for event in run.events() if transport["cause"] in event.message], "it is told, not only kept"


def _dies_under_load(real: Cluster, run: RunFolder, record_property: Callable[[str, object], None]) -> None:
    with real.start("chat", "-p", "Count.", "--max-tokens", str(LONG_STREAM)) as chat:
        assert chat.stdout is not None
        assert chat.stdout.read(1)
        victim = worker_on(real, 1)
        killed = time.time()
        victim.kill()
        said, broke = chat.communicate(timeout=200)
    assert chat.returncode == 1, (said, broke)
    until(lambda: run.ended, "the end of the run")
    last = run.last_state()
    assert (last.state, last.process, last.host, last.data["left"]) == ("failed", "worker1", "node2", [])
    (told,) = [event for event in run.events() if event.message.endswith("ending the others")]
    assert (told.process, told.host, told.data["ranks"]) == ("worker1", "node2", [1])
    # The worker itself, or its whole container where that was seen first; never the head, which only complains.
    assert told.message.startswith(("VLLM::Worker_PP1 (pid ", "worker1 (container "))
    assert "(rank 1)" in last.message
    assert last.data["lines"] == told.data["lines"] != []
    log = (run.logs / "worker1.log").read_text()
    assert all(line in log for line in last.data["lines"]), "what is quoted stands in the rank's log"
    record_property("seconds from the kill to its event", round(told.at.timestamp() - killed, 2))
    print(f"noticed after {told.at.timestamp() - killed:.2f} s: {told.message}")
    assert told.at.timestamp() >= killed
    assert real.run("status").returncode == 3
    real.nothing_left()
    assert real.bed.orphans() == []
