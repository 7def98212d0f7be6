"""A run's folder for temporary files of its engine on this machine: sockets, locks. It goes with the run's end."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

from overspan.schema.errors import RunDamaged
from overspan.store.files import write_whole
from overspan.store.run_folder import RunFolder

_FILE: Final = "temporary.json"
_PREFIX: Final = "overspan-"
_LONGEST: Final = 39
"""A socket's name has 107 bytes (unix(7)); Ray's are the longest: 68 behind this (`ray/session_.../sockets/...`)."""


def make(run: RunFolder) -> Path:
    """The run's folder, made where it is not there: in the user's own place for such files, if that is short enough."""
    if (known := _known(run)) is not None:
        return known
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder)) > _LONGEST:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    write_whole(run.path / _FILE, json.dumps({"path": str(folder)}))
    return folder


def _known(run: RunFolder) -> Path | None:
    """The folder that was made, if it is still one of ours: a file of a run's folder may say anything."""
    try:
        path = run.note(_FILE).get("path")
    except RunDamaged:
        return None
    folder = Path(path) if isinstance(path, str) and path.startswith("/") else None
    if folder is None or not folder.name.startswith(_PREFIX):
        return None
    try:
        seen = folder.lstat()
    except OSError:
        return None
    return folder if stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.getuid() else None


def forget(run: RunFolder) -> None:
    """Remove it. Twice is fine."""
    if (folder := _known(run)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
    (run.path / _FILE).unlink(missing_ok=True)
