"""A run for a moment: started as any other (`up`), ended at the end of the block whatever happens; and its memory."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from overspan.inventory import here
from overspan.launchers import proc
from overspan.runs import up
from overspan.runs.planning import Wanted, plan_of
from overspan.runs.status import status
from overspan.runs.stop import stop
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import dump
from overspan.store.locks import quiet
from overspan.store.run_folder import SUPERVISOR, RunFolder

_LOOK_S: Final = 1.0
"""Reading what pages a process shares takes the kernel some 10 ms; a twin's memory grows slowly."""


@contextmanager
def launched(recipe: Recipe, machines: Inventory | None = None) -> Iterator[RunFolder]:
    """A recipe as a run of its own, which loads; `verified` waits for it. Its folder stays if the block failed.

    Args:
        recipe: what to run.
        machines: where; None is this machine's CPU.

    Raises:
        InputError: it cannot start.
    """
    where = machines or without_gpus(here.this_machine(), recipe.layout)
    with tempfile.TemporaryDirectory(prefix="overspan-scratch-") as scratch:
        for name, document in (("recipe", recipe), ("inventory", where)):
            Path(scratch, f"{name}.yaml").write_text(dump(document), encoding="utf-8")
        plan = plan_of(Wanted(f"{scratch}/recipe.yaml", f"{scratch}/inventory.yaml"), to_start=True)
        run = up.launched(None, plan, quiet)
    try:
        yield run
    except BaseException:
        stop(run, grace_s=0.0)
        raise
    stop(run, grace_s=0.0)
    shutil.rmtree(run.path)


def verified(run: RunFolder) -> None:
    """Wait until it answers.

    Raises:
        RunFailed: it died.
    """

    def follow(_: RunFolder, events: Iterator[object]) -> None:
        deque(events, maxlen=0)

    up.verified(run, follow)


def without_gpus(found: Inventory, layout: Layout) -> Inventory:
    """Machines without their GPUs, with a slot for each rank: a twin's ranks can share cores."""
    hosts = [host.with_(gpus=[], cores=max(host.cores, layout.world_size)) for host in found.hosts]
    return found.with_(device="cpu", hosts=hosts)


class PeakMemory:
    """Looks at the run's processes again and again while the block runs, and once at its end; `bytes` is the most.

    What processes of this machine share (a forked engine shares most of its libraries) is counted once; what containers
    take, their hosts tell.
    """

    def __init__(self, run: RunFolder) -> None:
        self.bytes = 0
        self._run = run
        self._local = run.plan().inventory.traits.here
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._over.wait(_LOOK_S)
            self.bytes = max(self.bytes, self._now() if self._local or last else 0)

    def _now(self) -> int:
        if not self._local:
            return sum(each.memory_bytes or 0 for each in status(self._run).processes)
        session = int(self._run.note(SUPERVISOR)["session"])
        return sum(proc.own_share_bytes(each) for each in proc.in_session(session))
