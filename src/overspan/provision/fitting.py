"""Which build of an engine fits a machine's GPUs and driver; from what was detected, and nothing is asked.

What is known not to fit is refused with numbers. What is not known (no driver told, no GPU here) is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from overspan.provision import locked
from overspan.provision.locked import EngineLock
from overspan.schema.errors import EngineMissing
from overspan.schema.inventory import Gpu


class Fit(NamedTuple):
    """A build that is not known to fail there, with what is to be said of it."""

    lock: EngineLock
    notes: list[str]


def fit(name: str, gpus: Sequence[Gpu], machine: str | None = None) -> Fit:
    """The first build of an engine that fits: the lock of that name, else one that stands in for it.

    Args:
        name: of the engine: `cuda`.
        gpus: of the machine that will run it.
        machine: as `uname -m` prints it; None is this one.

    Raises:
        UnknownName: there is no such engine.
        EngineMissing: no build fits; with the numbers of each.
    """
    refused: list[str] = []
    for lock in locked.builds(name, machine):
        if lock.gpus is None:
            return Fit(lock, [])  # an install tells what its machine lacks
        why = misfit(lock, gpus)
        if why is None:
            return Fit(lock, [*refused, *_unknown(lock, gpus)])
        refused.append(f"{lock.description} does not fit: {why}")
    instead = "a newer driver, or a vLLM of your own: overspan engine use PATH; or start containers: --on FILE"
    raise EngineMissing("; ".join(refused), next=instead)


def misfit(lock: EngineLock, gpus: Sequence[Gpu]) -> str | None:
    """Why a build cannot run on a machine, with numbers; None where nothing speaks against it."""
    needed = lock.gpus
    if lock.refusal is not None or needed is None:
        return lock.refusal
    for gpu in gpus:
        if gpu.driver is not None and _branch(gpu.driver) < int(needed.driver):
            return f"CUDA {needed.cuda} needs driver {needed.driver} or newer, and {_of(gpu)} has {gpu.driver}"
        coded = needed.capabilities.get(lock.machine, [])
        if gpu.compute_capability is not None and not any(_runs(gpu.compute_capability, each) for each in coded):
            has = f"{_of(gpu)} has compute capability {gpu.compute_capability}"
            return f"{has}, and on {lock.machine} it holds code for {', '.join(coded)}"
    return None


def _unknown(lock: EngineLock, gpus: Sequence[Gpu]) -> list[str]:
    if lock.gpus is None:
        return []
    needs = f"{lock.description} needs driver {lock.gpus.driver} or newer"
    if not gpus:
        return [f"no GPU is seen on this machine, so nothing is checked: {needs}"]
    asked = {"driver": [gpu.driver for gpu in gpus], "compute capability": [gpu.compute_capability for gpu in gpus]}
    return [f"the {what} of the GPUs is not known: {needs}" for what, told in asked.items() if None in told]


def _branch(driver: str) -> int:
    """580 of 580.159.04; a driver that has no number is never too old."""
    first = driver.partition(".")[0]
    return int(first) if first.isdigit() else 10**6


def _runs(capability: str, coded: str) -> bool:
    """Whether a GPU runs code for another capability: the same major number, and no newer a minor one.

    Source: docs.nvidia.com/cuda, CUDA C++ Programming Guide, "Binary Compatibility".
    """
    major, minor = (int(part) for part in capability.split("."))
    own, needed = (int(part) for part in coded.split("."))
    return major == own and minor >= needed


def _of(gpu: Gpu) -> str:
    return f"GPU {gpu.index} ({gpu.name or gpu.kind})"
