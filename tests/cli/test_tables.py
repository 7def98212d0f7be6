"""Tables fit a terminal of 80 columns, and are whole everywhere else."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from overspan.cli import compare, output
from overspan.cli.main import main
from overspan.cli.output import table
from overspan.schema.places import runs_dir
from overspan.store.run_folder import RunFolder

CAPTURED = Path(__file__).parents[1] / "store" / "captured"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "terminal_columns", lambda: 80)


HEADER = ["run", "state", "since", "what happened"]
ROWS = [
    ["a-name-20260102-030405-abcd", "stopped", "2026-01-02 03:04:05", "the answer was wrong " * 5],
    ["b-name-20260102-030405-abcd", "verified", "2026-01-02 03:04:05", "ok"],
]


def test_free_text_is_cut_at_its_end_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = table(HEADER, ROWS, free=(3,))
    assert ROWS[0][3].rstrip() in whole
    monkeypatch.setattr(output, "terminal_columns", lambda: 80)
    lines = table(HEADER, ROWS, free=(3,)).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].endswith("…")
    assert lines[1].startswith("a-name-20260102-030405-abcd  stopped   2026-01-02 03:04:05  the answer")


def test_names_keep_their_begin_and_never_read_alike(terminal: None) -> None:
    names = [f"{'one-long-name-' * 5}20260102-03040{digit}-abcd" for digit in range(3)]
    lines = table(HEADER, [[name, *ROWS[0][1:]] for name in names], free=(3,)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len({line.split()[0] for line in lines[1:]}) == 3
    assert all(line.startswith("one-lo") and "…" in line.split()[0] for line in lines[1:])


def test_numbers_are_never_cut(terminal: None) -> None:
    numbers = [str(10**20 + column) for column in range(6)]
    assert all(number in table(numbers, [numbers]) for number in numbers)


def test_two_runs_are_compared_under_names_that_never_read_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CAPTURED / "runs", runs_dir(), dirs_exist_ok=True)
    (first,) = (each for each in runs_dir().iterdir() if each.name.startswith("captured"))
    second = f"{first.name[:-4]}ffff"
    shutil.copytree(first, runs_dir() / second)
    for columns in (None, 80, 200):
        for module in (output, compare):
            monkeypatch.setattr(module, "terminal_columns", lambda columns=columns: columns)
        with pytest.raises(SystemExit):
            main(["compare", first.name, second])
        out = capsys.readouterr().out
        assert first.name in out
        assert second in out
        assert max(map(len, out.splitlines())) <= (columns or 1000)
        assert ("first: " in out) == (columns == 80)


def on_a_terminal(*arguments: str) -> list[str]:
    """What a command shows on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm"}
    argv = [sys.executable, "-m", "overspan", *arguments]
    process = subprocess.Popen(argv, stdout=theirs, stderr=subprocess.DEVNULL, stdin=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    return shown.decode().splitlines()


def test_commands_fit(tmp_path: Path) -> None:
    run = RunFolder.create("a-run-with-a-name-that-takes-more-than-half-of-the-line")
    run.append("no known answer came back: " + "words " * 40, state="failed")
    for command in (["list"], ["recipe", "list"], ["inventory", "list"], ["catalog", "models"], ["catalog", "gpus"]):
        lines = on_a_terminal(*command)
        assert len(lines) > 1
        assert max(map(len, lines)) <= 80, command
    head, *lines = on_a_terminal("engine", "list")
    assert head.startswith("this machine")
    assert max(map(len, lines)) <= 80
    slo = ["--concurrency", "64", "--slo", "tpot=0.1"]
    lines = on_a_terminal("predict", "minimax-m2.5", "--gpu", "h200", *slo)
    first = next(index for index, line in enumerate(lines) if line.startswith("layout"))
    assert max(map(len, lines[first : first + 5])) <= 80
    assert lines[first + 1].startswith("dep8 * !")
    assert "! over the limits" in lines
