"""The support bundle: what another engineer needs of a run, without its secrets."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

from overspan.doctor.redact import Redactor, secrets_in
from overspan.doctor.sources import LogSource, LogUnreadable, opened
from overspan.schema import secrets
from overspan.schema.errors import InputError

MOST_LOG_BYTES = 32 << 20
"""Of a longer log the bundle holds the first and the last half of this: the start has the settings, the end
the failure."""

_LEFT_OUT = (".key", ".pem", ".token", ".sock", ".lock")


def write_bundle(folder: Path, findings: str, out: Path) -> int:
    """Pack a run's folder and the doctor's findings (JSON over several lines), every line without secrets.

    Returns:
        How many lines had a secret taken out.

    Raises:
        InputError: `out` exists or cannot be written.
    """
    known = {value.get_secret_value() for value in secrets.values().values()}
    redactor = Redactor(tuple(known.union(*(_named_in(path) for path in folder.glob("*.json")))))
    notes: list[str] = []
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{out} exists already", next="give another name") from None
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as bundle:
        for path in _files(folder, out):
            name = f"{folder.name}/{path.relative_to(folder)}"
            try:
                _add(bundle, name, _clean(path, redactor))
            except LogUnreadable as error:
                notes.append(f"{name}: left out, {error}")
        clean = b"".join(redactor.line(line) for line in findings.encode().splitlines(keepends=True))
        _add(bundle, f"{folder.name}/doctor.json", clean)
        said = f"{redactor.removed} lines had a secret taken out.\n" + "".join(f"{note}\n" for note in notes)
        _add(bundle, f"{folder.name}/BUNDLE.txt", said.encode())
    return redactor.removed


def _named_in(path: Path) -> set[str]:
    """Secrets that one of the run's documents names: they go wherever they stand. A damaged document names none."""
    try:
        return secrets_in(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return set()


def _files(folder: Path, out: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        # A link may lead out of the run; keys, sockets and the run's reserve help nobody.
        hidden = path.is_symlink() or path.name[0] == "." or path.suffix in _LEFT_OUT
        if path.is_file() and not hidden and path != out.resolve():
            yield path


def _clean(path: Path, redactor: Redactor) -> bytes:
    with opened(LogSource(str(path), path=path)) as log:
        head, tail = b"", b""
        while chunk := log.read(4 << 20):
            room = max(0, MOST_LOG_BYTES // 2 - len(head))
            head, tail = head + chunk[:room], tail + chunk[room:]
            tail = tail[-(MOST_LOG_BYTES // 2) :]
    lines = (head + tail).splitlines(keepends=True)
    if len(tail) == MOST_LOG_BYTES // 2:
        # Cut lines could show half a secret: they go.
        first, last = head.splitlines(keepends=True)[:-1], tail.splitlines(keepends=True)[1:]
        lines = [*first, b"[the middle of this log is left out]\n", *last]
    return b"".join(redactor.line(line) for line in lines)


def _add(bundle: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o600
    bundle.addfile(member, io.BytesIO(data))
