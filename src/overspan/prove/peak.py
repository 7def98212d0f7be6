"""The most memory that a run's processes take together, while something is done."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Final

from overspan.launchers import proc
from overspan.runs.status import status
from overspan.store.run_folder import SUPERVISOR, RunFolder

_INTERVAL_S: Final = 1.0
"""Reading what pages a process shares takes the kernel some 10 ms; a twin's memory grows slowly."""


class Peak:
    """Looks at the run's processes again and again while the block runs, and once at its end; `bytes` is the most.

    What processes of this machine share (a forked engine shares most of its libraries) is counted once; what containers
    take, their hosts tell.
    """

    def __init__(self, run: RunFolder) -> None:
        self.bytes = 0
        self._run = run
        self._local = run.plan().inventory.launcher == "local"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._over.wait(_INTERVAL_S)
            self.bytes = max(self.bytes, self._now() if self._local or last else 0)

    def _now(self) -> int:
        if not self._local:
            return sum(each.memory_bytes or 0 for each in status(self._run).processes)
        session = int(self._run.note(SUPERVISOR)["session"])
        return sum(proc.own_share_bytes(each) for each in proc.in_session(session))
