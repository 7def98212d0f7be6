"""The docker launcher on two real hosts: real containers, started, watched and ended over ssh."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from overspan.launchers.base import Death
from overspan.launchers.docker import DockerLauncher
from overspan.schema.errors import OverspanError
from overspan.schema.secrets import Secret
from support.containers import launcher, log, spec, until
from support.plans import RUN
from testbed.bed import Bed
from testbed.host import Host

pytestmark = pytest.mark.real

IDLE = "import time; print('up', flush=True); time.sleep(1000)"
COUNT = "import time\nfor n in range(100000): print('beat', n); time.sleep(0.02)"


@pytest.fixture
def docker(bed: Bed, tmp_path: Path) -> Iterator[DockerLauncher]:
    with launcher(bed, tmp_path) as made:
        yield made
        assert made.end(1.0) == []


def deaths(docker: DockerLauncher) -> list[Death]:
    """The deaths that are told first."""
    return docker.wait(30.0) or pytest.fail("no death was told")


def processes(host: Host, mark: str) -> list[psutil.Process]:
    """Those in the host's containers with a word in their command line."""
    found = []
    for one in host.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if mark in " ".join(one.cmdline()) and one.name().startswith("python"):
                found.append(one)
    return found


def beats(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("beat ")]


def test_starts_watches_and_ends(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    docker.start_all([spec("rank0", "node1", IDLE), spec("rank1", "node2", IDLE)], {})
    until(lambda: all(log(tmp_path, f"rank{n}").read_text() == "up\n" for n in (0, 1)), "both logs came")
    members = docker.members()
    assert [(one.process, one.host, one.health) for one in members] == [
        ("rank0", "node1", "running"),
        ("rank1", "node2", "running"),
    ]
    assert all(one.memory_bytes and one.started_at and one.pid for one in members)
    assert docker.wait(1.5) == []
    labels = json.loads(bed.hosts[1].docker("inspect", "--format", "{{json .Config.Labels}}", f"overspan-{RUN}-rank1"))
    assert labels == {"overspan.run": RUN, "overspan.process": "rank1", "overspan.ranks": "1"}
    assert docker.end(5.0) == []
    assert docker.end(5.0) == []
    assert bed.orphans() == []


def test_end_lets_a_process_end_well(docker: DockerLauncher, tmp_path: Path) -> None:
    gentle = (
        "import signal,sys,time\n"
        "signal.signal(15, lambda *_: sys.exit(print('drained')))\n"
        "print('up')\n"
        "time.sleep(1000)"
    )
    docker.start(spec("rank0", "node1", gentle), {})
    until(lambda: "up" in log(tmp_path, "rank0").read_text(), "it is up")
    assert docker.end(10.0) == []
    assert log(tmp_path, "rank0").read_text() == "up\ndrained\n"


def test_killed_worker_is_told_with_its_last_lines(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    docker.start_all([spec("rank0", "node1", IDLE), spec("rank1", "node2", COUNT, "marked")], {})
    until(lambda: len(beats(log(tmp_path, "rank1"))) > 5, "it runs")
    processes(bed.hosts[1], "marked")[0].kill()
    (death,) = deaths(docker)
    assert (death.process, death.host, death.ranks, death.code) == ("rank1", "node2", [1], -9)
    assert death.lines[-1].startswith("beat ")
    assert [one.health for one in docker.members()] == ["running", "dead"]
    assert docker.wait(1.0) == [], "a death is told once"


def test_first_to_die_comes_first(bed: Bed, docker: DockerLauncher) -> None:
    serve = (
        "import socket,time\ns=socket.create_server(('0.0.0.0',8077)); print('up'); c,_=s.accept(); time.sleep(1000)"
    )
    complain = "import socket,sys\nc=socket.create_connection((sys.argv[1],8077)); print('met'); c.recv(1); sys.exit(3)"
    docker.start(spec("rank1", "node2", serve), {})
    until(lambda: "up" in bed.hosts[1].docker("logs", f"overspan-{RUN}-rank1"), "rank 1 listens")
    docker.start(spec("rank0", "node1", complain, bed.hosts[1].address), {})
    until(lambda: "met" in bed.hosts[0].docker("logs", f"overspan-{RUN}-rank0"), "rank 0 has met it")
    processes(bed.hosts[1], "8077")[0].kill()
    found = deaths(docker)
    assert [(one.process, one.code) for one in found] == [("rank1", -9), ("rank0", 3)]


def test_vital_child_dies_while_its_container_lives(bed: Bed, docker: DockerLauncher) -> None:
    parent = (
        "import subprocess,sys,time\n"
        "subprocess.Popen([sys.executable,'-c','import time; time.sleep(1000)','VITAL'])\n"
        "time.sleep(1000)"
    )
    one = spec("rank0", "node1", parent, vital_titles=["*VITAL"])
    docker.start(one, {})
    until(lambda: len(processes(bed.hosts[0], "VITAL")) == 2, "its child runs")
    assert docker.wait(5.0) == [], "it is seen alive, at least once"
    next(each for each in processes(bed.hosts[0], "VITAL") if each.cmdline()[-1] == "VITAL").kill()
    (death,) = deaths(docker)
    assert "VITAL (pid " in death.what
    assert death.process == "rank0"


def test_removed_container_is_a_death(bed: Bed, docker: DockerLauncher) -> None:
    docker.start(spec("rank0", "node1", IDLE), {})
    bed.hosts[0].docker("rm", "--force", f"overspan-{RUN}-rank0")
    (death,) = deaths(docker)
    assert death.what.endswith("removed)")
    assert death.code is None


def test_lost_connection_is_no_death_and_loses_no_line(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    docker.start_all([spec("rank0", "node1", IDLE), spec("rank1", "node2", COUNT)], {})
    rank1 = log(tmp_path, "rank1")
    until(lambda: len(beats(rank1)) > 20, "it beats")
    with bed.hosts[1].cut():
        assert docker.wait(3.0) == []
        assert {one.process: one.health for one in docker.members()} == {"rank0": "running", "rank1": "unknown"}
        assert docker.wait(3.0) == []
    kept = len(beats(rank1))
    until(lambda: len(beats(rank1)) > kept + 50, "its lines come again", 60.0)
    until(lambda: [one.health for one in docker.members()] == ["running", "running"], "it is known again")
    assert docker.end(1.0) == []
    assert beats(rank1) == list(range(len(beats(rank1))))


def test_another_shell_finds_the_run_by_its_labels(bed: Bed, tmp_path: Path) -> None:
    with launcher(bed, tmp_path) as first:
        first.start_all([spec("rank0", "node1", COUNT), spec("rank1", "node2", IDLE)], {})
        until(lambda: len(beats(log(tmp_path, "rank0"))) > 5, "it beats")
    elsewhere = tmp_path / "elsewhere"
    with launcher(bed, elsewhere) as second, launcher(bed, elsewhere, "another-run") as stranger:
        assert stranger.look() == ([], {})
        assert {(one.process, one.health) for one in second.look()[0]} == {("rank0", "running"), ("rank1", "running")}
        assert stranger.end(1.0) == []
        assert len(bed.orphans()) > 0
        assert second.end(1.0) == []
    assert bed.orphans() == []


def test_what_docker_refuses_is_quoted_and_leaves_nothing(bed: Bed, docker: DockerLauncher) -> None:
    absent = spec("rank1", "node2", IDLE, image="no-such-image:1")
    with pytest.raises(OverspanError, match="process rank1 could not start on node2") as error:
        docker.start_all([spec("rank0", "node1", IDLE), absent], {})
    assert "no-such-image:1" in str(error.value.quote)
    assert docker.end(1.0) == []
    mount = [*absent.mounts, absent.mounts[0].with_(source="/srv/absent", target="/models")]
    with pytest.raises(OverspanError) as error:
        docker.start(spec("rank1", "node2", IDLE, mounts=mount), {})
    assert "/srv/absent" in str(error.value.quote)
    assert bed.orphans() == []


def test_secrets_reach_the_process_and_nothing_else(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    token = 'hf_se\'cret "$HOME" #1'
    show = "import os,time; print('got', os.environ['HF_TOKEN']); time.sleep(1000)"
    one = spec("rank0", "node1", show, secrets=["HF_TOKEN"])
    with pytest.raises(OverspanError, match="rank0 needs HF_TOKEN, which is not set"):
        docker.start(one, {})
    docker.start(one, {"HF_TOKEN": Secret(token), "OTHER": Secret("never sent")})
    until(lambda: f"got {token}" in log(tmp_path, "rank0").read_text(), "the process has it")
    host = bed.hosts[0]
    assert "hf_se" not in host.docker("inspect", f"overspan-{RUN}-rank0")
    assert "hf_se" not in "".join(" ".join(each.cmdline()) for each in host.processes())
    assert host.run("ls", "/dev/shm") == ""
    config = "".join(path.read_text() for path in (host.folder / "docker/containers").glob("*/config.v2.json"))
    assert RUN in config
    assert "hf_se" not in config


def test_hostile_arguments_arrive_as_they_are(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    hostile = ["a'; touch /srv/x #", "$(touch /srv/x)", "--privileged", "two\nlines", "*"]
    show = "import os,sys; print(repr(sys.argv[1:]), repr(os.environ['ODD']))"
    docker.start(spec("rank0", "node1", show, *hostile, env={"ODD": hostile[0]}), {})
    until(lambda: log(tmp_path, "rank0").read_text() == f"{hostile!r} {hostile[0]!r}\n", "the arguments came")
    assert list(bed.hosts[0].outside("/srv/x").parent.iterdir()) == []


def test_end_says_which_host_is_gone_and_ends_the_others(bed: Bed, docker: DockerLauncher) -> None:
    docker.start_all([spec("rank0", "node1", IDLE), spec("rank1", "node2", IDLE)], {})
    with bed.hosts[1].cut():
        (problem,) = docker.end(1.0)
        assert problem.startswith("node2")
        assert bed.hosts[0].strays() == []
        assert any("rank1" in stray for stray in bed.hosts[1].strays())
    until(lambda: docker.end(1.0) == [], "the host answers again")
    assert bed.orphans() == []


def test_restart_after_a_death(bed: Bed, docker: DockerLauncher, tmp_path: Path) -> None:
    one = spec("rank0", "node1", "import sys; sys.exit(print('boom') or 7)")
    docker.start(one, {})
    assert [death.code for death in deaths(docker)] == [7]
    docker.start(one, {})
    assert [(death.code, death.lines) for death in deaths(docker)] == [(7, ["boom"])]
    assert log(tmp_path, "rank0").read_text() == "boom\nboom\n"
