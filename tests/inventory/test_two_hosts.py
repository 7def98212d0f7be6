"""Detection and probes on the test bed: two hosts with an sshd and a Docker engine each, and what goes wrong there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from overspan.cli.main import main
from overspan.inventory import probes
from overspan.schema.errors import HostUnreachable
from overspan.schema.inventory import Inventory
from overspan.transport.base import Transport
from overspan.transport.reach import reach
from testbed.bed import Bed

pytestmark = pytest.mark.real


def detect(bed: Bed, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Inventory, str]:
    capsys.readouterr()
    ssh = bed.inventory().hosts[0].ssh
    assert ssh is not None and ssh.identity_file and ssh.known_hosts
    hosts = ",".join(host.address for host in bed.hosts)
    files = ["--user", "root", "--identity", ssh.identity_file, "--known-hosts", ssh.known_hosts]
    with pytest.raises(SystemExit) as ended:
        main(["detect", "--hosts", hosts, *files, *more])
    out = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, Inventory.model_validate(yaml.safe_load(out.out)), out.err


@contextmanager
def _reached(bed: Bed) -> Iterator[Transport]:
    transport = reach(bed.inventory().hosts[0])
    try:
        yield transport
    finally:
        transport.close()


def test_both_hosts_and_the_network_between_them(bed: Bed, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found, _ = detect(bed, capsys, "--save", str(tmp_path))
    addresses = [host.address for host in bed.hosts]
    assert (code, found.launcher, found.warnings) == (0, "docker", [])
    assert [host.fabric.address if host.fabric else None for host in found.hosts] == addresses
    assert all(host.container is not None and host.container.version for host in found.hosts)
    (link,) = found.links
    assert (link.kind, list(link.members)) == ("ethernet", addresses)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["detect", "--replay", str(tmp_path)])
    again = Inventory.model_validate(yaml.safe_load(capsys.readouterr().out))
    assert again.with_(source="") == found.with_(source="")


def test_a_smaller_mtu_on_one_side(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    second = bed.hosts[1]
    with second.mtu(1400), _reached(bed) as here:
        _, found, _ = detect(bed, capsys)
        assert any("MTU differs" in warning and "has 1400" in warning for warning in found.warnings)
        whole, small = (probes.look(here, probes.ping(second.address, mtu))[0].value for mtu in (1500, 1400))
        assert whole is not None and (whole.received, whole.refused_here) == (0, 0)
        assert small is not None and small.received == probes.PINGS


def test_a_host_that_is_gone_and_one_with_another_key(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = bed.hosts
    with second.cut():
        code, found, err = detect(bed, capsys)
    assert (code, [host.name for host in found.hosts]) == (4, [first.address])
    assert f"error: {second.address}" in err
    with second.new_host_key():
        code, found, err = detect(bed, capsys)
    assert code == 4
    assert "the host key" in err and "Offending" in err and "ssh-keygen" in err


def test_a_host_cut_off_in_the_middle_is_noticed(bed: Bed) -> None:
    with _reached(bed) as remote:
        lines = remote.lines(["sh", "-c", "echo started; sleep 600"])
        assert next(lines) == "started"
        with bed.hosts[0].cut(), pytest.raises(HostUnreachable, match="was lost while it ran sh"):
            list(lines)
    assert any("sleep" in stray for stray in bed.orphans()), "a lost connection ends nothing on the host"
    bed.hosts[0].clear()


def test_a_port_that_is_taken_and_an_image_that_is_not_there(bed: Bed) -> None:
    with bed.hosts[0].port_taken(8000), _reached(bed) as here:
        listeners = probes.look(here, probes.LISTENING)[0].value
        assert listeners is not None
        owner = probes.taken(listeners, 8000)
        assert owner is not None and owner.pid is not None
        absent = probes.look(here, probes.image("nosuch:1"))[0]
        assert absent.value is None and "No such image" in absent.why
