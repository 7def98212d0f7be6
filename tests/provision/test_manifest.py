"""What is in a folder: which files are read again, and names that are no UTF-8."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from overspan.provision.manifest import printable, read_manifest
from overspan.schema.inventory import Host
from overspan.transport.base import Completed
from overspan.transport.copying import ReachableHost
from overspan.transport.local import Local

HERE = Host(name="here", arch="x86_64", cores=1, memory_bytes=1)


class Counting(Local):
    """This machine; tells which files were read."""

    def __init__(self) -> None:
        super().__init__()
        self.hashed: list[str] = []

    def run(self, argv: Sequence[str], **options: Any) -> Completed:
        if argv[0] == "xargs":
            self.hashed += [Path(name).name for name in os.fsdecode(options["stdin"]).split("\0") if name]
        return super().run(argv, **options)


@pytest.fixture
def end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReachableHost:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path / "state"))
    return ReachableHost(HERE, Counting())


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_is_read_again_only_when_it_has_changed(end: ReachableHost, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_bytes(b"one")
    (folder / "b").write_bytes(b"two")
    first = read_manifest(end, str(folder))
    assert {path: file.sha256 for path, file in first.files.items()} == {"a": digest(b"one"), "b": digest(b"two")}
    assert read_manifest(end, str(folder)) == first
    assert isinstance(end.transport, Counting) and sorted(end.transport.hashed) == ["a", "b"]


def test_a_file_that_was_altered_and_dated_back_is_read_again(end: ReachableHost, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "weights"
    file.write_bytes(b"one")
    before = file.stat()
    read_manifest(end, str(folder))
    with file.open("r+b") as same:  # the same inode, size and modification time: ctime alone tells
        same.write(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    assert read_manifest(end, str(folder)).files["weights"].sha256 == digest(b"two")


def test_names_that_are_no_utf8_stay_two_files(end: ReachableHost, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    names = [b"weights-\xfe", b"weights-\xff", "größe".encode()]
    for name in names:
        (source / os.fsdecode(name)).write_bytes(name)
    found = read_manifest(end, str(source)).files
    assert {os.fsencode(path): file.sha256 for path, file in found.items()} == {name: digest(name) for name in names}
    assert read_manifest(end, str(source)).files == found  # as they were kept
    assert [printable(path) for path in sorted(found)] == ["größe", "weights-\ufffd", "weights-\ufffd"]
