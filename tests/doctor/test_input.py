"""Bad input: handled, and nothing is written."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspan.checks.doctor import diagnose
from overspan.checks.doctor.book import load_book
from overspan.checks.doctor.sources import LogSource
from overspan.cli.doctor import doctor
from support.doctor import ask, failed, failed_rules, root_of

FULL = b"OSError: [Errno 28] No space left on device\n"


def _root(path: Path) -> str:
    return diagnose([LogSource(str(path), path=path)])[0].rule


def test_gzip_utf16_half_characters_and_holes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"x\n" * 9999 + FULL, mtime=0))
    assert _root(tmp_path / "a.log.gz") == "disk-full"
    assert root_of("\ufeff".encode("utf-16-le") + FULL.decode().encode("utf-16-le")) == "disk-full"
    assert root_of(b"caf\xc3 \xe2\x82 " + FULL) == "disk-full"
    assert root_of(b"\x00" * 100_000 + b"\n" + FULL) == "disk-full"
    assert root_of(FULL.replace(b"\n", b"\r\n")) == "disk-full"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x7fELF" + bytes(range(32)) * 400 + FULL, "binary"),
        (gzip.compress(FULL * 9999, mtime=0)[:-20], "gzip"),
        (gzip.compress(FULL * 9999, mtime=0)[:12], "gzip"),
    ],
)
def test_what_is_no_whole_text_is_said(data: bytes, said: str) -> None:
    findings = ask(data)
    unreadable = next(finding for finding in findings if finding.rule == "log-unreadable")
    assert unreadable.status == "not_evaluated" and said in (unreadable.cause or "")


def test_a_long_line_and_a_hostile_line_end_and_find_what_is_in_them() -> None:
    long = b"x" * (20 << 20) + b" " + FULL.strip() + b" " + b"y" * (1 << 20)
    assert root_of(long) == "disk-full"
    draw = random.Random(1)
    anchors = [anchor.encode() for anchor in load_book().anchors]
    hostile = b" ".join(draw.choice(anchors) for _ in range(60_000))[: 1 << 20]
    assert ask(hostile)
    for piece in (b"(a ", b"ERROR ", b"[rank1] ", b"((((", b"0: ", b"a.b.c.", b"\x1b["):
        assert ask(piece * ((1 << 20) // len(piece)))


def test_a_log_that_grows_is_read_to_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"fine\n")
    source = LogSource("a.log", path=log)
    from overspan.checks.doctor.sources import opened

    with opened(source) as reading:
        with log.open("ab") as more:
            more.write(FULL)
        assert reading.read() == b"fine\n"
        assert reading.read() == b""


def test_findings_do_not_depend_on_where_buffers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = b"(Worker_TP1 pid=5) INFO 11-22 10:00:00 [a.py:1] step\n" * 4000
    text = noise + b"Timed out waiting\nfor object available to read\n" + noise
    monkeypatch.setattr("overspan.checks.doctor.scan.BUFFER_BYTES", 70_001)
    finding = ask(text)[0]
    assert finding.rule == "ray-compiled-dag-timeout"
    assert finding.evidence is not None and finding.evidence.line == 4001


def test_the_command_prints_the_root_first_and_ends_with_its_code(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(FULL)
    run = CliRunner()
    before = sorted(tmp_path.iterdir()), log.read_bytes()
    result = run.invoke(doctor, ["--log", str(log), "--json"], standalone_mode=False)
    assert result.return_value == 1
    assert json.loads(result.stdout)[0]["rule"] == "disk-full"
    assert (sorted(tmp_path.iterdir()), log.read_bytes()) == before
    text = run.invoke(doctor, ["-"], input=FULL, standalone_mode=False).stdout
    assert "cause: The disk is full [disk-full]" in text and "fix:" in text
    fine = run.invoke(doctor, ["-"], input=b"all well\n", standalone_mode=False)
    assert fine.return_value == 0 and "Nothing that the doctor knows" in fine.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--log", "nosuch.log"], "no such file"), (["--log", "/"], "a folder"), (["-", "--log", "x"], "not both")],
)
def test_wrong_arguments_are_one_clear_error(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(doctor, arguments, standalone_mode=False)
    assert said in str(result.exception)


def test_an_empty_log_fails_nothing() -> None:
    assert failed_rules("") == [] and failed(ask("\n\n")) == []
