"""Hand a run over to the processes that own it."""

from __future__ import annotations

import os
import sys

from overspan.store.locks import NameLock
from overspan.store.run_folder import RunFolder
from overspan.transport import local


def launch(run: RunFolder, lock: NameLock) -> None:
    """Hand a staged run to a guardian and supervisor of its own, in a session of their own. They inherit the lock."""
    argv = [sys.executable, "-m", "overspan.runs.guardian", str(run.path)]
    local.spawn(argv, log=run.path / "supervisor.log", env=os.environ, new_session=True, keep_open=[lock.descriptor])
