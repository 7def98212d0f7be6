"""`logs -f` shows each line once, and the last one too."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from overspan.cli.main import main
from overspan.launchers.tail import last_lines
from overspan.runs import logs
from overspan.store.run_folder import RunFolder


@pytest.fixture
def run() -> RunFolder:
    folder = RunFolder.create("followed")
    folder.append("launching", state="launching")
    return folder


class Following:
    """`logs -f` between two of its looks: `more` writes before the next one."""

    def __init__(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch, lines: int = 200) -> None:
        self.shown: list[str] = []
        self._looked, self._go_on = threading.Semaphore(0), threading.Semaphore(0)
        monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=self._pause))
        self._thread = threading.Thread(target=self._follow, args=(logs.follow(run, None, lines),), daemon=True)
        self._thread.start()
        assert self._looked.acquire(timeout=30)

    def _pause(self, _: float) -> None:
        self._looked.release()
        self._go_on.acquire()

    def _follow(self, lines: Iterator[str]) -> None:
        self.shown.extend(lines)

    def look(self) -> None:
        self._go_on.release()
        assert self._looked.acquire(timeout=30)

    def end(self) -> list[str]:
        self._go_on.release()
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self.shown


def add(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_lines_come_once_and_the_last_one_without_its_end_too(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    log = run.log("api")
    add(log, "one\ntwo\nhalf")
    following = Following(run, monkeypatch)
    assert following.shown == ["one", "two"]
    add(log, " a line\n\nthree\nRuntimeError: the cause")
    following.look()
    assert following.shown == ["one", "two", "half a line", "", "three"]
    run.append("failed", state="failed")
    assert following.end() == ["one", "two", "half a line", "", "three", "RuntimeError: the cause"]


def test_of_what_was_there_the_last_lines_are_shown(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    log = run.log("api")
    add(log, "".join(f"{number:07}\n" for number in range(40_000)))  # longer than what is looked back at
    following = Following(run, monkeypatch, lines=2)
    assert following.shown == ["0039998", "0039999"]
    add(log, "new\n")
    run.append("stopped", state="stopped")
    assert following.end()[2:] == ["new"]
    assert list(logs.follow(run, None, 0)) == []


def test_what_is_written_as_the_first_look_is_taken_is_shown_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = run.log("api")
    add(log, "one\n")
    run.append("failed", state="failed")

    def late(*_: object) -> bool:
        add(log, "between\n")
        return True

    monkeypatch.setattr(RunFolder, "ended", property(late))
    assert list(logs.follow(run, None, 200)) == ["one", "between"]


def test_a_log_that_appears_later_is_shown_whole(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    add(run.log("api"), "one\n")
    following = Following(run, monkeypatch, lines=1)
    add(run.log("rank1"), "a\nb\n")
    add(run.log("api"), "two\n")
    following.look()
    run.append("stopped", state="stopped")
    assert following.end() == ["one", "api | two", "rank1 | a", "rank1 | b"]


POLLS = (
    'INFO:     127.0.0.1:4711 - "GET /metrics HTTP/1.1" 200 OK\nINFO:     10.0.0.2:1 - "GET /health HTTP/1.1" 200 OK\n'
)
OTHERS = (
    'INFO:     127.0.0.1:4711 - "GET /health HTTP/1.1" 503 Service Unavailable',
    'INFO:     127.0.0.1:4711 - "POST /v1/completions HTTP/1.1" 200 OK',
    "the model said: GET /metrics",
)


@pytest.mark.parametrize("on_and_on", [False, True])
def test_own_polls_are_left_out_which_is_said_once_and_all_shows_them(
    run: RunFolder, on_and_on: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    add(run.log("api"), POLLS * 50 + "\n".join(OTHERS) + "\n" + POLLS * 300)
    run.append("stopped", state="stopped")
    more = ["-f"] if on_and_on else []
    with pytest.raises(SystemExit):
        main(["logs", run.id, "-n", "3", *more])
    said = capsys.readouterr()
    assert said.out.splitlines() == list(OTHERS)
    assert said.err.count("left out") == said.err.count("--all") == 1
    with pytest.raises(SystemExit):
        main(["logs", run.id, "-n", "2", "--all", *more])
    said = capsys.readouterr()
    assert (said.out, said.err) == (POLLS, "")


def test_a_log_without_polls_says_nothing_of_them(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    add(run.log("api"), "one\n")
    with pytest.raises(SystemExit):
        main(["logs", run.id])
    assert capsys.readouterr() == ("one\n", "")


def test_the_last_lines_of_a_death_are_not_polls(run: RunFolder) -> None:
    add(run.log("api"), "RuntimeError: the cause\n" + POLLS * 20)
    assert last_lines(run.log("api"), 12) == ["RuntimeError: the cause"]
