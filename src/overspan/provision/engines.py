"""Engine environments of this user: each made by a lock, in a folder of its own, apart from Overspan's own.

    engines/cpu-1f00aa12bb34       a link: it exists exactly when the environment is whole
    engines/.builds/cpu-....X9k    the environment; the link names it
    engines/.locks/cpu-....lock    one builder at a time

A virtual environment cannot be moved (its scripts name its folder), so it is built where it stays, in a folder of a
name never used before, and one rename of a link makes it visible. Killed at any moment, a build leaves no link;
whatever its orphans still write lands in a folder that nobody will use, and the next builder deletes it.
"""

import json
import os
import shlex
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from overspan.provision import build, locked, plugin, space
from overspan.provision.packages import NotSupplied, interpreters
from overspan.schema.base import Frozen
from overspan.schema.errors import EngineMissing, InputError, OverspanError, UnknownName
from overspan.schema.places import cache_dir
from overspan.schema.reading import json_of, read_bytes
from overspan.schema.units import count
from overspan.store.files import bytes_of
from overspan.store.locks import Say, held, quiet

_FACTS = "overspan-engine.json"


class EngineEnv(Frozen):
    """An installed engine."""

    name: str
    path: Path
    python: Path
    python_version: str
    version: str
    bin: Path
    digest: str
    current: bool = True
    """Made by the lock that this Overspan carries for this machine."""
    machine: str = locked.FIRST
    """As `uname -m` prints it: a home that machines share may hold engines of other machines."""
    size_bytes: int
    seconds: float
    """What its installation took."""
    installed_at: str


def find(kind: str) -> EngineEnv:
    """The installed engine of that kind, made by the lock that this Overspan carries.

    Raises:
        UnknownName: there is no such kind.
        EngineMissing: it is not installed.
    """
    lock = locked.load(kind)
    engine = _at(_link(lock))
    if engine is None:
        lock.require()
        older = any(other.name == kind and other.machine == lock.machine for other in installed())
        why = "is of an older lock" if older else "is not installed"
        raise EngineMissing(f"engine {kind} ({lock.description}) {why}", next=f"overspan engine install {kind}")
    plugin.refresh(engine.path)
    return engine


def damaged() -> list[str]:
    """One sentence for each environment that a link names and that is no whole one."""
    links = [link for link in sorted(_home().glob("[!.]*")) if link.is_symlink() and _at(link) is None]
    return [
        f"{link.name}: {_FACTS} or bin/python is not as it was installed; "
        f"take it away (rm {shlex.quote(str(link))}), and install it again"
        for link in links
    ]


def installed() -> list[EngineEnv]:
    """Every whole engine environment, by name."""
    found = [engine for link in _home().glob("[!.]*") if (engine := _at(link)) is not None]
    return sorted(found, key=lambda engine: (engine.name, engine.installed_at))


def install(lock: locked.EngineLock, *, python: str | None = None, say: Say = quiet, detail: Say = quiet) -> EngineEnv:
    """Make a lock's environment, or give the one that is there.

    Args:
        lock: what to install: `locked.load("cpu")`.
        python: the interpreter to use; None takes the running one if the engine runs on it, else one on PATH.
        say: told when it begins, waits and ends.
        detail: told each step.

    Raises:
        EngineMissing: a package has no wheel for this machine.
        InputError: no such Python, or no space.
        OverspanError: a step failed; nothing is left behind.
    """
    engine = _at(_link(lock))
    if engine is not None:
        note = " (its vLLM plugin is new)" if plugin.refresh(engine.path, say=say) else ""
        say(f"engine {lock.name} is installed: {engine.path}{note}")
        return engine
    lock.require()
    with held(_home() / ".locks" / f"{lock.label}.lock", doing=f"installing engine {lock.name}", say=say):
        engine = _at(_link(lock))
        if engine is None:
            _sweep(lock.label)
            engine = _install(lock, python, say, detail)
        else:
            say(f"engine {lock.name} is installed now: {engine.path}")
    return engine


def remove(name: str, *, say: Say = quiet) -> list[EngineEnv]:
    """Delete every environment of an engine, those of older locks as well.

    Raises:
        UnknownName: none of that name is installed.
        InputError: a process is using one.
    """
    engines = installed()
    chosen = [engine for engine in engines if engine.name == name]
    if not chosen:
        raise UnknownName("installed engine", name, {engine.name for engine in engines}, next="overspan engine list")
    for engine in chosen:
        _refuse_if_used(engine)
    for engine in chosen:
        delete(engine, say=say)
    return chosen


def delete(engine: EngineEnv, *, say: Say = quiet) -> None:
    """Delete one environment.

    Raises:
        InputError: a process is using it.
    """
    _refuse_if_used(engine)
    label = f"{engine.name}-{engine.digest}"
    with held(_home() / ".locks" / f"{label}.lock", doing=f"removing engine {engine.name}", say=say):
        (_home() / label).unlink(missing_ok=True)
        _sweep(label)


def _install(lock: locked.EngineLock, python: str | None, say: Say, detail: Say) -> EngineEnv:
    space.require(_home(), lock.needs_bytes, f"engine {lock.name}", move="OVERSPAN_CACHE")
    refused: NotSupplied | None = None
    for interpreter in interpreters(python, lock.python):
        if refused is not None:
            say(f"{refused.what}; trying Python {interpreter.version}")
        packages = count(len(lock.pins), "package")
        say(f"installing engine {lock.name} ({lock.description}, {packages}) with {interpreter.path}")
        started = time.monotonic()
        builds = _home() / ".builds"
        builds.mkdir(parents=True, exist_ok=True)
        folder = builds / f"{lock.label}.{os.urandom(4).hex()}"
        folder.mkdir()  # with the modes of the umask: other accounts may use it
        try:
            build.build(lock, folder, interpreter, say=detail)
            plugin.refresh(folder)
            engine = _publish(lock, folder, interpreter.version, time.monotonic() - started)
        except NotSupplied as error:
            refused = error
            continue
        finally:
            if _target(lock.label) != folder:
                shutil.rmtree(folder, ignore_errors=True)
        say(f"engine {lock.name} is ready in {engine.seconds:.0f} s, {space.size(engine.size_bytes)}: {engine.path}")
        return engine
    raise refused or OverspanError(f"engine {lock.name}: no Python to install it with")


def _publish(lock: locked.EngineLock, folder: Path, python_version: str, seconds: float) -> EngineEnv:
    """Write the facts, then make the link, which is what makes it exist."""
    facts = {
        "name": lock.name,
        "digest": lock.digest,
        "machine": lock.machine,
        "version": lock.version,
        "python_version": python_version,
        "size_bytes": bytes_of(folder),
        "seconds": round(seconds, 1),
        "installed_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    link = folder / ".link"
    link.symlink_to(Path(".builds") / folder.name)
    link.replace(_link(lock))
    engine = _at(_link(lock))
    if engine is None:
        raise OverspanError(f"{_link(lock)} was made and cannot be read")
    return engine


def _home() -> Path:
    return cache_dir() / "engines"


def _link(lock: locked.EngineLock) -> Path:
    return _home() / lock.label


def _target(label: str) -> Path | None:
    link = _home() / label
    return link.parent / link.readlink() if link.is_symlink() else None


def _at(link: Path) -> EngineEnv | None:
    """The environment that a link names; None when there is none, or when somebody deleted parts of it."""
    folder = link.resolve()
    try:
        facts = json_of(read_bytes(folder / _FACTS))
        binaries = folder / "bin"
        if not link.is_symlink() or not os.access(binaries / "python", os.X_OK):
            return None
        engine = EngineEnv(**{**facts, "path": folder, "python": binaries / "python", "bin": binaries})
    except (OSError, TypeError, ValueError, InputError):  # pydantic's and JSON's are a ValueError
        return None
    current = engine.name in locked.known() and locked.load(engine.name).digest == engine.digest
    return engine.with_(current=current)


def _sweep(label: str) -> None:
    """Delete what killed builds left, and what a removed link named. The label's lock is held."""
    whole = _target(label)
    if whole is not None and _at(_home() / label) is None:
        (_home() / label).unlink()
        whole = None
    for folder in (_home() / ".builds").glob(f"{label}.*"):
        if folder != whole:
            # An orphan may still write there for a moment; the next sweep takes what is left.
            shutil.rmtree(folder, ignore_errors=True)


def _refuse_if_used(engine: EngineEnv) -> None:
    for process in psutil.process_iter(["pid", "cmdline"]):
        first = (process.info["cmdline"] or [""])[0]
        if first.startswith(f"{engine.path}{os.sep}"):
            raise InputError(
                f"engine {engine.name} is in use by process {process.info['pid']}: {first}",
                next="overspan list, then overspan stop RUN",
            )
