"""Bad input: handled, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import overspan
from overspan.cli.doctor import doctor
from overspan.doctor import diagnose
from overspan.doctor.book import load_book
from overspan.doctor.sources import LogSource
from support.doctor import ask, failed, failed_rules, root_of

FULL = b"OSError: [Errno 28] No space left on device\n"


def _root(path: Path) -> str:
    return diagnose([LogSource(str(path), path=path)])[0].rule


def test_gzip_utf16_half_characters_and_holes_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"x\n" * 9999 + FULL, mtime=0))
    assert _root(tmp_path / "a.log.gz") == "disk-full"
    assert root_of("\ufeff".encode("utf-16-le") + FULL.decode().encode("utf-16-le")) == "disk-full"
    assert root_of(b"caf\xc3 \xe2\x82 " + FULL) == "disk-full"
    assert root_of(b"\xc3 \xe2\x82 \xf0\x9f \xe9t\xe9 " * 3 + FULL) == "disk-full"
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


def test_a_single_line_of_100_mb_is_read_in_bounded_memory(tmp_path: Path) -> None:
    log = tmp_path / "one-line.log"
    with log.open("wb") as file:
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(FULL)
    program = (
        "import re, sys; from pathlib import Path; from overspan.doctor import diagnose;"
        "from overspan.doctor.sources import LogSource;"
        "found = diagnose([LogSource('x', path=Path(sys.argv[1]))]);"
        # Not getrusage: its peak counts what the process that started this one had (kernel: exec keeps it).
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text());"
        "print(found[0].rule, int(peak[1]) // 1024)"
    )
    said = subprocess.run([sys.executable, "-c", program, str(log)], capture_output=True, text=True, check=True)
    rule, peak_mb = said.stdout.split()
    assert rule == "disk-full" and int(peak_mb) < 300


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that others may enter; pytest closes its own to them with each session that starts on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_what_this_user_may_not_read_is_said_and_nothing_crashes(public: Path) -> None:
    run = public / "runs" / "locked-20261122-100000-abcd"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "rank0.log").write_bytes(FULL)
    log = public / "secret.log"
    log.write_bytes(FULL)
    log.chmod(0o600)
    program = (
        "import sys; from click.testing import CliRunner; from overspan.cli.doctor import doctor;"
        "result = CliRunner().invoke(doctor, sys.argv[1:], standalone_mode=False);"
        "print(result.stdout); print('error:', getattr(result.exception, 'what', result.exception))"
    )
    paths = [str(Path(overspan.__file__).parents[1]), *(path for path in sys.path if path.endswith("site-packages"))]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(paths), "OVERSPAN_STATE": str(public)}
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", program]

    def asked(*arguments: str) -> str:
        said = subprocess.run([*nobody, *arguments], env=env, capture_output=True, text=True, check=True, cwd="/")
        return said.stdout

    assert "is not readable" in asked("--log", str(log))
    run.chmod(0o700)
    assert f"error: {run / 'logs' / 'rank0.log'}: Permission denied" in asked("--log", str(run / "logs" / "rank0.log"))
    for folder in (run.parent, run, run / "logs"):
        folder.chmod(0o755)
    (run / "logs" / "rank0.log").chmod(0o600)
    said = asked(run.name)
    assert "rank0.log: Permission denied" in said and "error: None" in said
    for folder in (run / "logs", run, run.parent):
        folder.chmod(0o700)
        assert re.search(r"error: \S*runs\S*: Permission denied", asked(run.name)), folder


def test_a_log_that_grows_is_read_to_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"fine\n")
    source = LogSource("a.log", path=log)
    from overspan.doctor.sources import opened

    with opened(source) as reading:
        with log.open("ab") as more:
            more.write(FULL)
        assert reading.read() == b"fine\n"
        assert reading.read() == b""


def test_findings_do_not_depend_on_where_buffers_end(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = b"(Worker_TP1 pid=5) INFO 11-22 10:00:00 [a.py:1] step\n" * 4000
    text = noise + b"Timed out waiting\nfor object available to read\n" + noise
    monkeypatch.setattr("overspan.doctor.scan.BUFFER_BYTES", 70_001)
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
    assert fine.return_value == 0 and "no known failure" in fine.stdout
    assert "the logs are empty" in run.invoke(doctor, ["-"], input=b"", standalone_mode=False).stdout
    noise = random.Random(1).randbytes(100_000)
    for unreadable in (noise, gzip.compress(noise)[:-20]):
        broken = run.invoke(doctor, ["-"], input=unreadable, standalone_mode=False)
        assert broken.return_value == 2 and "could not be read" in broken.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--log", "nosuch.log"], "no such file"), (["--log", "/"], "a folder"), (["-", "--log", "x"], "not both")],
)
def test_wrong_arguments_are_one_clear_error(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(doctor, arguments, standalone_mode=False)
    assert said in str(result.exception)


def test_of_a_very_long_line_the_match_is_quoted() -> None:
    finding = ask(
        b"x" * 100_000 + b" torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB " + b"y" * 9000
    )[0]
    assert finding.evidence is not None and "Tried to allocate" in finding.evidence.text
    assert len(finding.evidence.text) < 1100


def test_an_empty_log_fails_nothing() -> None:
    assert failed_rules("") == [] and failed(ask("\n\n")) == []
