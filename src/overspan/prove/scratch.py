"""A run for a moment: started as any other (`up`), ended at the end of the block whatever happens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overspan.inventory import here
from overspan.runs import up
from overspan.runs.planning import Wanted, plan_of
from overspan.runs.stop import stop
from overspan.schema.inventory import Inventory
from overspan.schema.layout import Layout
from overspan.schema.recipe import Recipe
from overspan.schema.yamlio import dump
from overspan.store.run_folder import RunFolder


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
        files = {"recipe.yaml": recipe, "inventory.yaml": where}
        for name, held_document in files.items():
            Path(scratch, name).write_text(dump(held_document), encoding="utf-8")
        plan = plan_of(Wanted(f"{scratch}/recipe.yaml", f"{scratch}/inventory.yaml"), to_start=True)
        run = up.launched(None, plan, _nothing)
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
    up.verified(run, _follow)


def without_gpus(found: Inventory, layout: Layout) -> Inventory:
    """Machines without their GPUs, with a slot for each rank: a twin's ranks can share cores."""
    hosts = [host.with_(gpus=[], cores=max(host.cores, layout.world_size)) for host in found.hosts]
    return found.with_(device="cpu", hosts=hosts)


def _nothing(_: str) -> None:
    pass


def _follow(_: RunFolder, events: Iterator[object]) -> None:
    for _event in events:
        pass
