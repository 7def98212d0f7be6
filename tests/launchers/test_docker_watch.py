"""Deaths of containers on several hosts, as their engines tell them, on scripted hosts."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from overspan.launchers.docker import DockerLauncher
from overspan.schema.inventory import Host
from overspan.schema.process import ProcessSpec
from overspan.transport.fake import Fake, Reply
from support.plans import plan_on, run_in

SHELL = ["sh", "-c", "*", "sh", "docker", "logs"]
NEVER = "0001-01-01T00:00:00Z"


def stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def scripted(name: str, died_at: float | None, clock_ahead_s: float) -> Fake:
    """A host whose container ended then; None: it runs."""
    state = {"Status": "running" if died_at is None else "exited", "ExitCode": 0 if died_at is None else 137, "Pid": 7}
    times = {"StartedAt": stamp(1.0), "FinishedAt": NEVER if died_at is None else stamp(died_at + clock_ahead_s)}
    record = {"id": f"c-{name}", "name": f"/{name}", "labels": {}, "state": {**state, **times}}
    return Fake(
        name,
        [
            Reply(argv=["date", "**"], stdout=f"{time.time() + clock_ahead_s:.6f}\n"),
            Reply(argv=["docker", "run", "**"], stdout=f"c-{name}\n"),
            Reply(argv=["docker", "container", "inspect", "**"], stdout=json.dumps(record) + "\n"),
            Reply(argv=["docker", "top", "**"], stdout="PID PPID RSS STAT COMMAND\n7 1 10 S serve\n"),
            Reply(argv=[*SHELL, "--tail", "**"], stdout=f"the end of {name}\n"),
            Reply(argv=[*SHELL, "--follow", "**"]),
            Reply(argv=["docker", "ps", "**"]),
        ],
    )


@pytest.fixture
def now() -> float:
    return time.time()


def watching(folder: Path, *hosts: Fake) -> Iterator[DockerLauncher]:
    plan = plan_on([Host(name=host.host, memory_bytes=1) for host in hosts], launcher="docker")
    with DockerLauncher(plan, run_in(folder), {host.host: host for host in hosts}) as launcher:
        specs = [
            ProcessSpec(name=f"rank{n}", host=host.host, image="i", argv=["serve"], ranks=[n])
            for n, host in enumerate(hosts)
        ]
        launcher.start_all(specs, {})
        yield launcher


@pytest.mark.parametrize("ahead", [(0.0, 0.0), (0.0, 3600.0), (-3600.0, 0.0)])
def test_the_first_to_die_is_told_first_whatever_the_hosts_clocks_say(
    tmp_path: Path, now: float, ahead: tuple[float, float]
) -> None:
    hosts = scripted("node1", now - 10, ahead[0]), scripted("node2", now - 20, ahead[1]), scripted("node3", None, 0)
    for launcher in watching(tmp_path, *hosts):
        deaths = launcher.wait(60)
        assert [(one.process, one.host, one.ranks, one.code) for one in deaths] == [
            ("rank1", "node2", [1], -9),
            ("rank0", "node1", [0], -9),
        ]
        assert [one.lines for one in deaths] == [["the end of node2"], ["the end of node1"]]
        assert [one.died_at - now for one in deaths] == pytest.approx([-20, -10], abs=5)
        assert {one.process: one.health for one in launcher.members()} == {
            "rank0": "dead", "rank1": "dead", "rank2": "running",
        }  # fmt: skip


def test_end_says_of_each_host_once_that_it_does_not_answer(tmp_path: Path) -> None:
    silent = [Fake(name, [Reply(argv=["docker", "**"], unreachable="no route")]) for name in ("node1", "node2")]
    plan = plan_on([Host(name=host.host, memory_bytes=1) for host in silent], launcher="docker")
    with DockerLauncher(plan, run_in(tmp_path), {host.host: host for host in silent}) as launcher:
        problems = launcher.end_elsewhere()
        assert problems == [f"{name}: {name} is unreachable (no route)" for name in ("node1", "node2")]
        assert launcher.look() == ([], {"node1": problems[0], "node2": problems[1]})


def test_a_host_that_joins_reaches_itself_and_no_head(tmp_path: Path) -> None:
    plan = plan_on([Host(name=name, memory_bytes=1) for name in ("head", "worker")], launcher="docker")
    with DockerLauncher(plan.with_(part="worker"), run_in(tmp_path)) as launcher:
        assert list(launcher.transports) == ["worker"]
        assert launcher.gateway().host == "worker"
