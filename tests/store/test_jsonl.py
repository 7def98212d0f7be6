"""Lines are whole, end at a line feed alone, and outlive a full disk and a crash."""

import errno
import os
import threading
from pathlib import Path

import pytest

from overspan.store import jsonl
from overspan.store.files import write_whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.mark.parametrize("end", ["\u0085", "\u2028", "\r", "\x0b", "\x1c"])
def test_a_line_ends_at_a_line_feed_alone(file: Path, end: str) -> None:
    for line in (f'"a{end}b"', '"c"'):
        jsonl.append(file, line)
    assert jsonl.lines(file) == [f'"a{end}b"', '"c"']
    assert list(jsonl.backwards(file)) == ['"c"', f'"a{end}b"']


def test_a_line_does_not_grow_onto_one_that_a_crash_cut(file: Path) -> None:
    file.write_text('"first"\n"cut')
    assert jsonl.lines(file) == list(jsonl.backwards(file)) == ['"first"']
    jsonl.append(file, '"second"')
    assert file.read_text() == '"first"\n"second"\n'


@pytest.mark.parametrize("size", [10, 4095, 4096, 4097, 8192, 20_000])
def test_a_long_line_that_was_cut_goes_whole(file: Path, size: int) -> None:
    file.write_text("1\n" + "x" * size)
    assert list(jsonl.backwards(file)) == ["1"]
    jsonl.append(file, "2")
    assert file.read_text() == "1\n2\n"
    file.write_text("x" * size)
    assert list(jsonl.backwards(file)) == []
    jsonl.append(file, "3")
    assert file.read_text() == "3\n"


@pytest.mark.parametrize("size", [1, 4094, 4095, 4096, 9000])
def test_backwards_gives_the_same_lines(file: Path, size: int) -> None:
    for line in ("a", "b" * size, "c", "d" * size):
        jsonl.append(file, line)
    assert list(jsonl.backwards(file)) == jsonl.lines(file)[::-1] == ["d" * size, "c", "b" * size, "a"]


def test_a_disk_that_is_full_in_the_middle_of_a_line_takes_none_of_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jsonl.append(file, '"first"')
    write, room = os.write, [4]

    def nearly_full(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", nearly_full)
        with pytest.raises(OSError, match="No space left"):
            jsonl.append(file, '"second"')
    assert file.read_text() == '"first"\n'
    jsonl.append(file, '"third"')
    assert jsonl.lines(file) == ['"first"', '"third"']


def test_a_write_that_takes_a_part_of_the_line_is_continued(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    jsonl.append(file, '"a long line"')
    assert file.read_text() == '"a long line"\n'


def test_several_writers_lose_no_line(file: Path) -> None:
    def add(writer: int) -> None:
        for number in range(50):
            jsonl.append(file, f"{writer}:{number}:" + "x" * 500)

    writers = [threading.Thread(target=add, args=(each,)) for each in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    heads = [tuple(map(int, line.split(":")[:2])) for line in jsonl.lines(file)]
    assert sorted(heads) == [(writer, number) for writer in range(4) for number in range(50)]


def test_an_absent_file_has_no_lines(file: Path) -> None:
    assert jsonl.lines(file) == list(jsonl.backwards(file)) == []


def test_a_secret_file_is_never_readable_by_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "secrets.json", "{}", mode=0o600)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "plan.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "plan.json", "new \udc80")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert (tmp_path / "plan.json").read_text() == "old"
