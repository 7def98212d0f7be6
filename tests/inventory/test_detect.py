"""`overspan detect` as a user runs it: here, over real sshds, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from overspan.cli.main import main
from overspan.inventory import here
from overspan.inventory.detect import parse_hosts
from overspan.inventory.here import this_machine
from overspan.schema.errors import InputError
from overspan.schema.inventory import Inventory, Ssh
from support.nvml import Nvml
from support.sparks import write_spark
from support.sshd import Sshd, running_sshd
from support.waiting import until

HOSTILE = [
    "a'; touch {marker} #",
    "-oProxyCommand=touch {marker}",
    "$(touch {marker})",
    "a b",
    "",
    "a;b",
    "../x",
    "a/b",
]


def overspan(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    out = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.out, out.err


def test_this_machine_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = overspan(capsys, "detect", "--save", str(tmp_path))
    assert code == 0
    found = Inventory.model_validate(yaml.safe_load(out))
    (host,) = found.hosts
    assert (found.launcher, host.ssh, host.memory_bytes) == ("local", None, psutil.virtual_memory().total)
    assert found.device == ("cuda" if host.gpus else "cpu") and found.why["device"]
    code, again, _ = overspan(capsys, "detect", "--replay", str(tmp_path))
    assert (code, out.replace("source: overspan detect", "")) == (
        0,
        again.replace(f"source: overspan detect --replay {tmp_path}", ""),
    )


def test_json_is_one_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_spark(tmp_path, "spark1", {"enp1s0f1np1": ["10.0.0.1/24"]})
    code, out, _ = overspan(capsys, "detect", "--replay", str(tmp_path), "--json")
    assert (code, json.loads(out)["hosts"][0]["gpus"][0]["kind"]) == (0, "gb10")


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)


def test_replay_starts_nothing(tmp_path: Path, no_process: None, capsys: pytest.CaptureFixture[str]) -> None:
    write_spark(tmp_path, "spark1", {})
    assert overspan(capsys, "detect", "--replay", str(tmp_path))[0] == 0


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("door", ["--hosts", "--user"])
def test_a_host_or_user_that_is_none_is_refused_before_anything_starts(
    text: str, door: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_process: None
) -> None:
    if door == "--hosts" and not text:
        text = ","
    marker = tmp_path / "ran"
    argv = ["--hosts", "spark1", "--user"] if door == "--user" else ["--hosts"]
    code, out, err = overspan(capsys, "detect", *argv, text.format(marker=marker))
    assert (code, out) == (2, "")
    assert "--hosts" in err or "'user'" in err
    assert not marker.exists()


def test_hosts_are_read() -> None:
    defaults = Ssh(address="default", user="ann", identity_file="/k")
    one, two, three, four = parse_hosts("spark1, bob@10.0.0.2:2222,[fd00::2]:23,localhost", defaults)
    assert one.ssh == Ssh(address="spark1", user="ann", identity_file="/k")
    assert two.name == "10.0.0.2" and two.ssh == Ssh(address="10.0.0.2", user="bob", port=2222, identity_file="/k")
    assert three.name == "fd00--2" and three.ssh is not None and (three.ssh.address, three.ssh.port) == ("fd00::2", 23)
    assert four.ssh is None
    for wrong in ("a,a", "a:0", "a:99999", "a,,b"):
        with pytest.raises(InputError, match="--hosts"):
            parse_hosts(wrong)


def test_this_machine_at_once_without_a_process(no_process: None) -> None:
    found = this_machine()
    (host,) = found.hosts
    assert (found.launcher, host.ssh) == ("local", None)
    assert 0 < host.memory_bytes <= psutil.virtual_memory().total
    assert host.disk_free_bytes and host.cores >= 1 and host.os


@pytest.mark.parametrize(
    ("library", "kind", "memory_bytes", "unified"),
    [
        (Nvml("NVIDIA H100 80GB HBM3", 85520809984, (9, 0)), "h100", 85520809984, False),
        (Nvml("NVIDIA GB10", None, (12, 1)), "gb10", None, True),
    ],
    ids=["h100", "gb10"],
)
def test_this_machine_with_a_gpu(
    library: Nvml, kind: str, memory_bytes: int | None, unified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(here, "DRIVER_SIGNS", (Path("/"),))
    found = this_machine()
    (gpu,) = found.hosts[0].gpus
    assert (found.device, gpu.kind, gpu.unified_memory) == ("cuda", kind, unified)
    assert gpu.memory_bytes == (memory_bytes or found.hosts[0].memory_bytes)
    assert library.closed


# Over a real sshd


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def over_ssh(server: Sshd, hosts: str) -> list[str]:
    files = ["--identity", str(server.user_key), "--known-hosts", str(server.known_hosts)]
    return ["detect", "--hosts", hosts, *files]


@pytest.mark.real
def test_over_ssh_the_same_is_found_as_here(server: Sshd, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = overspan(capsys, *over_ssh(server, f"127.0.0.1:{server.port}"), "--save", str(tmp_path))
    far = Inventory.model_validate(yaml.safe_load(out)).hosts[0]
    near = Inventory.model_validate(yaml.safe_load(overspan(capsys, "detect")[1])).hosts[0]
    assert code == 0
    assert far.ssh is not None and far.ssh.port == server.port and far.ssh.known_hosts == str(server.known_hosts)
    same: dict[str, object] = {"name": "same", "ssh": None, "disk_free_bytes": None, "nics": []}
    assert far.with_(**same) == near.with_(**same)
    until(lambda: server.connections() == [], "the end of the connection", 10)
    replay = overspan(capsys, "detect", "--replay", str(tmp_path))[1]
    assert Inventory.model_validate(yaml.safe_load(replay)).hosts[0] == far


@pytest.mark.real
def test_an_unreachable_host_is_listed_and_the_others_are_printed(
    server: Sshd, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hosts = f"127.0.0.1:{server.port},127.0.0.2:1,localhost"
    code, out, err = overspan(capsys, *over_ssh(server, hosts), "--save", str(tmp_path))
    found = Inventory.model_validate(yaml.safe_load(out))
    assert code == 4
    assert [host.name for host in found.hosts] == ["127.0.0.1", "localhost"]
    (gone,) = found.unreachable
    assert gone.name == "127.0.0.2" and "Connection refused" in str(gone.quote)
    assert "error: 127.0.0.2" in err and "next: ssh" in err
    code, _, err = overspan(capsys, "detect", "--replay", str(tmp_path))
    assert code == 4 and "Connection refused" in err


@pytest.mark.real
def test_no_host_reachable_is_one_error(server: Sshd, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = overspan(capsys, *over_ssh(server, "127.0.0.2:1,127.0.0.3:1"), "--json")
    assert code == 4
    assert json.loads(out)["error"] == "HostUnreachable"
    assert "127.0.0.2" in err and "127.0.0.3" in err
