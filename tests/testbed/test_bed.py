"""The bed itself: its hosts are apart, its faults are real, and it leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from testbed import bed as bed_module
from testbed import claims, image, network
from testbed.bed import REPOSITORY, Bed
from testbed.host import Host

pytestmark = pytest.mark.real


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


def ssh(bed: Bed, host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(bed.ssh(host, *argv), capture_output=True, text=True, timeout=60, check=False)


def in_container(bed: Bed, host: Host, name: str, program: str, *argv: str) -> None:
    """Start a Python program in a container on the host's own network."""
    volumes = [word for m in image.mounts() for word in ("-v", f"{m.source}:{m.target}:ro")]
    python = [f"{sys.base_prefix}/bin/python3", "-c", program, *argv]
    host.docker("run", "--detach", "--name", name, "--network", "host", *volumes, image.NAME, *python)


def reaches(bed: Bed, source: Host, target: str, *options: str) -> bool:
    done = ssh(bed, source, "ping", "-c", "1", "-W", "1", *options, target)
    return done.returncode == 0


def test_hosts_are_apart(bed: Bed) -> None:
    one, two = bed.hosts
    assert ssh(bed, one, "hostname").stdout.strip() == "node1"
    assert ssh(bed, two, "hostname").stdout.strip() == "node2"
    for path in ("/dev/shm/mark", "/tmp/mark", "/srv/mark", "/root/mark"):
        one.run("touch", path)
        assert ssh(bed, two, "test", "-e", path).returncode == 1
        one.run("rm", path)
    assert ssh(bed, one, "docker", "info", "--format", "{{.Name}}").stdout.strip() == "node1"
    assert image.image_id(one) == image.image_id(two) != ""


def test_containers_of_two_hosts_talk(bed: Bed) -> None:
    one, two = bed.hosts
    in_container(
        bed, two, "talker", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8099, bind='0.0.0.0')"
    )
    fetch = "import sys,urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).status)"
    url = f"http://{two.address}:8099/note"
    python = f"{sys.base_prefix}/bin/python3"
    until(lambda: "200" in one.run(python, "-c", fetch, url, check=False), "the other host's container answers")
    assert any("talker" in stray for stray in bed.orphans())
    two.docker("rm", "-f", "talker")


def test_orphans_names_what_is_left(bed: Bed) -> None:
    host = bed.hosts[1]
    assert bed.orphans() == []
    in_container(bed, host, "left-behind", "import time; time.sleep(1000)")
    stray = subprocess.Popen(host.inside(["sleep", "1234"]))
    host.run("touch", "/dev/shm/psm_left")
    until(lambda: any("sleep 1234" in line for line in bed.orphans()), "the process is seen")
    found = "\n".join(bed.orphans())
    assert "container left-behind" in found
    assert "/dev/shm/psm_left" in found
    host.clear()
    stray.wait(10)
    until(lambda: bed.orphans() == [], "nothing is left")


def test_host_key_changed(bed: Bed) -> None:
    host = bed.hosts[0]
    with host.new_host_key():
        refused = ssh(bed, host, "true")
        assert refused.returncode == 255
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr
    assert ssh(bed, host, "true").returncode == 0


def test_cable_out(bed: Bed) -> None:
    one, two = bed.hosts
    with two.cut():
        assert not reaches(bed, one, two.address)
        assert two.run("hostname").strip() == "node2"
    until(lambda: reaches(bed, one, two.address), "the cable is back")
    assert not reaches(bed, one, bed.unreachable_address)


def test_mtu(bed: Bed) -> None:
    one, two = bed.hosts
    full = ("-M", "do", "-s", "1472")  # 1500 with the headers of IP and ICMP
    assert reaches(bed, one, two.address, *full)
    with one.mtu(1400):
        assert not reaches(bed, one, two.address, *full)
        assert reaches(bed, one, two.address)
    assert reaches(bed, one, two.address, *full)


def test_port_taken(bed: Bed) -> None:
    host = bed.hosts[1]
    bind = "import socket,sys; socket.create_server(('0.0.0.0', 29501))"
    python = f"{sys.base_prefix}/bin/python3"
    with host.port_taken(29501):
        assert "Address already in use" in ssh(bed, host, python, "-c", f'"{bind}"').stderr
    assert ssh(bed, host, python, "-c", f'"{bind}"').returncode == 0


def test_frozen_host_goes_on_after(bed: Bed) -> None:
    host = bed.hosts[0]
    in_container(bed, host, "beat", "import time\nwhile True: print(time.time(), flush=True); time.sleep(0.05)")
    until(lambda: host.docker("logs", "beat") != "", "it beats")
    with host.frozen():
        assert host.init is not None
        beats = [p for p in host.init.children(recursive=True) if p.name().startswith("python")]
        assert [p.status() for p in beats] == [psutil.STATUS_STOPPED]
    before = len(host.docker("logs", "beat"))
    until(lambda: len(host.docker("logs", "beat")) > before, "it beats again")
    host.docker("rm", "-f", "beat")


def test_power_off_ends_everything_and_power_on_remembers(bed: Bed) -> None:
    host = bed.hosts[1]
    in_container(bed, host, "worker", "import time; time.sleep(1000)")
    host.power_off()
    assert host.init is None
    assert network.processes_in(host.netns) == []
    assert not reaches(bed, bed.hosts[0], host.address)
    host.power_on()
    assert "Exited" in host.docker("ps", "-a", "--format", "{{.Status}}")
    host.docker("rm", "worker")


def test_altered_file_keeps_its_size_and_time(bed: Bed) -> None:
    host = bed.hosts[0]
    file = host.outside("/srv/weights.bin")
    file.write_bytes(os.urandom(4096))
    whole, stat = hashlib.sha256(file.read_bytes()).digest(), file.stat()
    with host.altered("/srv/weights.bin"):
        assert hashlib.sha256(file.read_bytes()).digest() != whole
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert hashlib.sha256(file.read_bytes()).digest() == whole


def test_two_beds_coexist_and_leave_nothing(bed: Bed) -> None:
    with Bed(["solo"]) as other:
        assert other.address != bed.address
        in_container(other, other.hosts[0], "worker", "import time; time.sleep(1000)")
        assert ssh(other, other.hosts[0], "hostname").stdout.strip() == "solo"
        assert claims.remains(other.id) != []
    assert claims.remains(other.id) == []
    assert ssh(bed, bed.hosts[0], "hostname").stdout.strip() == "node1"


def test_next_bed_removes_what_a_killed_owner_left(bed: Bed) -> None:
    program = (
        "import time; from testbed.bed import Bed\nwith Bed(['solo']) as b: print(b.id, flush=True); time.sleep(1000)"
    )
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}/src:{REPOSITORY}/tests"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        killed = owner.stdout.readline().strip()
        owner.send_signal(signal.SIGKILL)
    netns = f"os{killed}-solo"
    until(lambda: network.processes_in(netns) == [], "its processes end with it")
    assert any("interface" in line for line in claims.remains(killed))
    with Bed(["solo"]):
        assert claims.remains(killed) == []
        assert claims.remains(bed.id) != []


def test_not_root_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in str(bed_module.missing())


def test_absent_programs_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(bed_module, "PROGRAMS", ("ip", "no-such-program"))
    assert "no-such-program: run `make system-parts`" in str(bed_module.missing())


def test_shared_folder_under_a_private_one_survives_a_reset(tmp_path: Path) -> None:
    shared = tmp_path / "engine"
    shared.mkdir()
    (shared / "program").write_text("here")
    with Bed(["solo"], shared=[shared]) as bed:
        host = bed.hosts[0]
        host.run("touch", "/tmp/own")
        for _ in range(2):
            assert host.run("cat", str(shared / "program")) == "here"
            assert "Read-only" in ssh(bed, host, "touch", str(shared / "program")).stderr
            bed.reset()
        left = host.run("ls", "/tmp").split()
        assert str(shared).split("/")[2] in left
        assert "own" not in left
        assert (shared / "program").read_text() == "here"
