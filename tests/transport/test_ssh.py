"""Over a real sshd on loopback: arguments arrive as they were, nothing runs that should not, and losses are told."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overspan.schema.errors import HostUnreachable, InputError, OverspanError
from overspan.transport.ssh import Remote
from support.sshd import Sshd, new_key, running_sshd

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Sshd]:
    """One that the test may break."""
    with running_sshd(tmp_path) as running:
        yield running


@pytest.fixture
def remote(server: Sshd) -> Iterator[Remote]:
    with Remote("spark1", server.ssh) as remote:
        yield remote


HOSTILE = [
    "a'; touch {marker} #",
    "$(touch {marker})",
    "`touch {marker}`",
    "x\ntouch {marker}\n",
    '"; touch {marker}; "',
    "\\'; touch {marker} #",
    "-o ProxyCommand=touch {marker}",
    "; touch {marker}",
    "&& touch {marker}",
    "| touch {marker}",
    "> {marker}",
    "*",
    "~",
    "!!",
    "",
    " ",
    "é ☃",
]


def test_arguments_arrive_as_they_were_and_never_run(remote: Remote, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    arguments = [text.format(marker=marker) for text in HOSTILE]
    assert remote.run(["printf", "%s\\0", *arguments]).stdout.split("\0")[:-1] == arguments
    names = [f"V{n}" for n in range(len(arguments))]
    printed = remote.run(["printenv", "-0", *names], env=dict(zip(names, arguments, strict=True))).stdout
    assert printed.split("\0")[:-1] == arguments
    assert not marker.exists()


@pytest.mark.parametrize("text", HOSTILE[:3])
def test_neither_a_program_nor_a_folder_runs_as_text(remote: Remote, tmp_path: Path, text: str) -> None:
    marker = tmp_path / "ran"
    for attempt in ({"argv": [text.format(marker=marker)]}, {"argv": ["true"], "cwd": text.format(marker=marker)}):
        with pytest.raises(OverspanError):
            remote.run(**attempt)
    assert not marker.exists()


def test_a_variable_name_cannot_smuggle_a_command(remote: Remote, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for name in (f"A;touch {marker};B", "-S", "A=B", "", "A\n"):
        with pytest.raises(InputError):
            remote.run(["true"], env={name: "x"})
    assert not marker.exists()


def test_words_that_a_shell_would_take_for_its_own_are_programs(remote: Remote) -> None:
    for word in ("if", "cd", "A=B", "-x"):
        with pytest.raises(OverspanError):
            remote.run([word, "true"])
    assert remote.run(["true"]).code == 0


def test_streams_code_stdin_and_folder(remote: Remote, tmp_path: Path) -> None:
    done = remote.run(["sh", "-c", "cat; echo err >&2; exit 7"], stdin=b"\x00\xffbytes\n", cwd=str(tmp_path))
    assert (done.code, done.stderr, done.host) == (7, "err\n", "spark1")
    assert done.stdout.endswith("bytes\n")
    assert remote.run(["pwd"], cwd=str(tmp_path)).stdout.strip() == str(tmp_path)
    with pytest.raises(OverspanError, match="spark1"):
        remote.run(["false"]).check("false")


def test_a_command_that_is_not_there_is_said_so(remote: Remote) -> None:
    with pytest.raises(OverspanError, match="ibdev2netdev-absent is not installed on spark1") as caught:
        remote.run(["ibdev2netdev-absent"])
    assert not isinstance(caught.value, HostUnreachable)


def test_a_commands_own_exit_255_is_a_failed_command(remote: Remote) -> None:
    assert remote.run(["sh", "-c", "exit 255"]).code == 255


def test_a_time_limit_ends_the_command_on_the_far_side(remote: Remote, tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    with pytest.raises(OverspanError, match=r"did not end within 0\.5 s") as caught:
        remote.run(["sh", "-c", 'echo $$ > "$1"; exec sleep 60', "sh", str(marker)], timeout_s=0.5)
    assert not isinstance(caught.value, HostUnreachable)
    assert not Path(f"/proc/{marker.read_text().strip()}").exists()


def test_many_commands_share_one_connection_in_a_private_folder(own_server: Sshd) -> None:
    with Remote("spark1", own_server.ssh) as remote:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda n: remote.run(["echo", str(n)]).stdout, range(8)))
        assert results == [f"{n}\n" for n in range(8)]
        assert len(own_server.connections()) == 1
        folder = Path(remote.command(["true"])[remote.command(["true"]).index("-S") + 1]).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    deadline = time.monotonic() + 10
    while own_server.connections() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert own_server.connections() == []


def test_lines_come_as_they_are_written_and_errors_quote_the_last(remote: Remote) -> None:
    lines = remote.lines(["sh", "-c", "echo one; echo two >&2; sleep 60"])
    assert next(lines) == "one"
    assert next(lines) == "two"
    lines.close()  # type: ignore[attr-defined]
    with pytest.raises(OverspanError, match="sh failed on spark1") as caught:
        list(remote.lines(["sh", "-c", "echo the reason; exit 3"]))
    assert caught.value.quote == "the reason"


def test_a_lost_connection_is_an_unreachable_host_not_a_failed_command(own_server: Sshd) -> None:
    with Remote("spark2", own_server.ssh) as remote:
        remote.run(["true"])
        timer = threading.Timer(0.5, own_server.cut)
        timer.start()
        with pytest.raises(HostUnreachable, match=r"connection to spark2 .* was lost while it ran sleep"):
            remote.run(["sleep", "30"])
        timer.join()
        assert remote.run(["echo", "back"]).stdout == "back\n", "the next command connects anew"


def test_a_lost_connection_while_lines_come(own_server: Sshd) -> None:
    with Remote("spark2", own_server.ssh) as remote:
        lines = remote.lines(["sh", "-c", "echo one; sleep 30"])
        assert next(lines) == "one"
        own_server.cut()
        with pytest.raises(HostUnreachable, match="lost while it ran sh"):
            list(lines)


def test_a_host_key_that_changed_is_refused_with_the_line_and_the_next_command(own_server: Sshd) -> None:
    own_server.stop()
    own_server.host_key = new_key(own_server.folder / "host")
    own_server.start()
    with pytest.raises(HostUnreachable, match=r"host key of spark1 .* is not the one") as caught:
        Remote("spark1", own_server.ssh).run(["true"])
    assert "Offending ED25519 key" in str(caught.value.quote)
    assert str(own_server.known_hosts) in str(caught.value.quote)
    forget = f"ssh-keygen -f '{own_server.known_hosts}' -R '[127.0.0.1]:{own_server.port}'"
    assert forget in str(caught.value.next)


def test_an_unknown_host_key_is_refused(server: Sshd, tmp_path: Path) -> None:
    stranger = server.ssh.with_(known_hosts=str(tmp_path / "empty"))
    with pytest.raises(HostUnreachable, match="is not known yet") as caught:
        Remote("spark1", stranger).run(["true"])
    assert caught.value.quote is not None and "host key is known for" in caught.value.quote
    assert not (tmp_path / "empty").exists(), "nothing was learnt behind the user's back"


def test_a_configuration_file_cannot_switch_verification_off(server: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n")
    careless = server.ssh.with_(known_hosts=str(tmp_path / "empty"), config_file=str(config))
    with pytest.raises(HostUnreachable, match="is not known yet"):
        Remote("spark1", careless).run(["true"])


def test_a_refused_login_and_a_closed_port(server: Sshd, tmp_path: Path) -> None:
    other = server.ssh.with_(identity_file=str(new_key(tmp_path / "other")))
    with pytest.raises(HostUnreachable, match="refused the login") as caught:
        Remote("spark1", other).run(["true"])
    assert caught.value.quote is not None and "Permission denied" in caught.value.quote
    closed = server.ssh.with_(port=1)
    with pytest.raises(HostUnreachable, match=r"spark1 \(127.0.0.1\) is unreachable") as caught:
        Remote("spark1", closed).run(["true"])
    assert caught.value.quote is not None and "Connection refused" in caught.value.quote
