"""Output of others never drives a terminal; what a person asked to be written goes where it was said."""

import errno
import json
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.conftest import Shell
from overspan.cli.main import main
from overspan.store.run_folder import RunFolder
from support.run_documents import bench, events, findings, plan, point, process, request_lines

HOSTILE = "\x1b]52;c;QUFB\x07\x1b[2J\x1b]0;owned\x07\x9b2J\u202ekcab\u2066\x08\x08\r\x7f\x1b[31mred\x1b[0m"
LEFT = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066"} - {"\n", "\t"}


@pytest.fixture
def hostile(shell: Shell) -> RunFolder:
    """A run whose model, engine and log say what would drive a terminal."""
    run = RunFolder.create("hostile")
    run.write("plan.json", plan())
    run.write("processes.json", [process()])
    for each in events():
        run.append(f"{each.message} {HOSTILE}", state=each.state, process=each.process)
    run.write("verify.json", [each.with_(cause=f"{each.cause}{HOSTILE}") for each in findings()])
    run.write("bench.json", bench([point(1)]))
    (run.path / "requests-1.jsonl").write_text("\n".join(request_lines(1, 32)) + "\n")
    run.log(process().name).write_text(f"INFO {HOSTILE}\nERROR {HOSTILE}\n")
    return run


def on_a_terminal(*arguments: str) -> str:
    """What a terminal receives of a command."""
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "overspan", *arguments], stdout=theirs, stderr=theirs):
        os.close(theirs)
        told = b""
        while True:
            try:
                told += (piece := os.read(ours, 65536))
            except OSError as error:  # the other end is closed
                assert error.errno == errno.EIO
                break
            if not piece:
                break
    os.close(ours)
    return told.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("words", [["list"], ["status"], ["logs"], ["doctor"], ["verify"], ["status", "--json"]])
def test_no_output_of_others_drives_a_terminal(hostile: RunFolder, words: list[str]) -> None:
    told = on_a_terminal(words[0], *([] if words[0] == "list" else [hostile.id]), *words[1:])
    assert LEFT.isdisjoint(told), ascii(told)


def test_a_document_is_json_with_every_letter_that_was_said(hostile: RunFolder, shell: Shell) -> None:
    told = shell.run("list", "--json").stdout
    assert LEFT.isdisjoint(told)
    assert json.loads(told)[0]["message"].endswith(HOSTILE)


def test_colours_of_a_log_are_left_out_and_its_words_stay(hostile: RunFolder, shell: Shell) -> None:
    assert "\\u001b]52;c;QUFB\\u0007" in shell.run("logs", hostile.id).stdout
    assert shell.run("logs", hostile.id).stdout.rstrip().endswith("\\u007fred")


def test_a_pipe_is_written_into_and_stays_one(hostile: RunFolder, shell: Shell, tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    reader.start()
    done = shell.run("report", hostile.id, "--out", str(pipe))
    reader.join(timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_ISFIFO(pipe.stat().st_mode) and got[0].endswith("</html>")


def test_a_device_is_written_into_and_stays_one(hostile: RunFolder, shell: Shell, tmp_path: Path) -> None:
    device = tmp_path / "nul"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_text("")
    except PermissionError:
        pytest.skip("a device of this test's own needs root")
    done = shell.run("report", hostile.id, "--out", str(device))
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_standard_output_is_a_place_to_write_to(hostile: RunFolder, shell: Shell) -> None:
    done = shell.run("report", hostile.id, "--out", "/dev/stdout")
    assert done.returncode == 0 and done.stdout.startswith("<!doctype html>"), done.stderr
    shown = re.sub(r"(?s)<script.*?</script>", "", done.stdout)
    assert LEFT.isdisjoint(shown) and "u001b]52" in shown


def test_a_link_stays_and_its_file_keeps_its_mode(hostile: RunFolder, shell: Shell, tmp_path: Path) -> None:
    target, link = tmp_path / "real.html", tmp_path / "link.html"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    assert shell.run("report", hostile.id, "--out", str(link)).returncode == 0
    assert link.is_symlink() and target.read_text() != "old" and stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_folder_of_a_run_is_closed_to_other_accounts(hostile: RunFolder) -> None:
    assert stat.S_IMODE(hostile.path.stat().st_mode) == 0o700


def test_a_full_disk_leaves_room_for_why_a_run_ended(hostile: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full until something is deleted."""
    reserve, written = hostile.path / ".reserve", os.write

    def full(descriptor: int, data: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    hostile.append("api on here was ended by signal 9", state="failed")
    assert hostile.last_state().message == "api on here was ended by signal 9"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOTDIR, errno.EACCES])
def test_what_the_system_refuses_is_one_sentence(
    number: int, hostile: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(hostile.path))

    monkeypatch.setattr("overspan.cli.report.write_out", refuse)
    with pytest.raises(SystemExit) as ended:
        main(["report", hostile.id])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and f"error: {hostile.path}: {os.strerror(number)}" in told and "next:" in told
