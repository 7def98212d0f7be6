"""Two commands on two hosts, joined: every byte arrives, and whoever failed is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from overspan.launchers import proc
from overspan.schema.errors import HostUnreachable, OverspanError
from overspan.transport.copying import Pipeable, pipe
from overspan.transport.local import Local
from overspan.transport.ssh import Remote
from support.sshd import Sshd, running_sshd
from support.waiting import until


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.real)])
def host(request: pytest.FixtureRequest) -> Iterator[Pipeable]:
    if request.param == "local":
        yield Local()
        return
    with Remote("spark1", request.getfixturevalue("server").ssh) as remote:
        yield remote


NAMES = ["plain", "a'; touch ran #", "-rf", "$(touch ran)", "with blank", "new\nline"]


def test_a_folder_is_sent_with_every_name_and_mode(host: Pipeable, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    data = os.urandom(3_000_000)
    for name in NAMES:
        (source / "deep" / name).write_bytes(data)
    (source / "run.sh").write_text("true")
    (source / "run.sh").chmod(0o755)
    target = tmp_path / "a'; touch ran #"
    target.mkdir()
    pipe(Local(), ["tar", "-C", str(source), "-cf", "-", "."], host, ["tar", "-C", str(target), "-xf", "-"])
    assert sorted(path.name for path in (target / "deep").iterdir()) == sorted(NAMES)
    assert all((target / "deep" / name).read_bytes() == data for name in NAMES)
    assert os.access(target / "run.sh", os.X_OK)


def test_the_side_that_failed_is_named_with_its_line(host: Pipeable, tmp_path: Path) -> None:
    with pytest.raises(OverspanError, match=f"sh failed on {host.host}") as caught:
        pipe(Local("here"), ["yes"], host, ["sh", "-c", "head -c 100 >/dev/null; echo disk full >&2; exit 3"])
    assert caught.value.quote == "disk full"
    with pytest.raises(OverspanError, match="cat failed on here") as caught:
        pipe(Local("here"), ["cat", str(tmp_path / "none")], host, ["cat"])
    assert "No such file" in str(caught.value.quote)


@pytest.mark.real
def test_a_connection_lost_on_the_way_is_an_unreachable_host_and_nothing_is_left(server: Sshd, tmp_path: Path) -> None:
    arrived = tmp_path / "arrived"
    before = psutil.Process().children()

    def cut_in_the_middle() -> None:
        until(arrived.exists, "bytes arrive", timeout_s=60.0)
        server.cut()

    with Remote("spark2", server.ssh) as remote, ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut_in_the_middle)
        with pytest.raises(HostUnreachable, match="lost while it ran sh"):
            pipe(Local(), ["yes"], remote, ["sh", "-c", 'head -c 1 >"$0"; exec cat', str(arrived)])
        cutting.result()
    left = [proc.title(child) for child in psutil.Process().children() if child not in before]
    assert not [title for title in left if title.startswith(("yes", "ssh"))], "the producer was ended with its reader"
