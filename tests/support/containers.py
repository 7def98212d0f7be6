"""Processes for the bed's hosts (plain Python programs in containers) and a launcher that reaches them over ssh."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from overspan.launchers.docker import DockerLauncher
from overspan.schema.process import ProcessSpec
from support.plans import RUN, plan_on, run_in
from testbed import image
from testbed.bed import Bed

PYTHON = f"{sys.base_prefix}/bin/python3"


def spec(name: str, host: str, program: str, *argv: str, **more: object) -> ProcessSpec:
    """A process whose program is Python text."""
    base = ProcessSpec(
        name=name,
        host=host,
        image=image.NAME,
        entrypoint=PYTHON,
        argv=["-u", "-c", program, *argv],
        mounts=image.mounts(),
        ranks=[int(name[-1])] if name[-1].isdigit() else [],
    )
    return base.with_(**more)


@contextlib.contextmanager
def launcher(bed: Bed, folder: Path, run: str = RUN) -> Iterator[DockerLauncher]:
    """A launcher of its own with connections of its own, as another shell has. Its containers are not ended."""
    plan = plan_on(bed.inventory().hosts, launcher="docker")
    with DockerLauncher(plan, run_in(folder, run)) as made:
        yield made


def log(folder: Path, process: str) -> Path:
    """Where the run's folder has the output of a process."""
    return run_in(folder).log(process)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)
