"""Make one engine environment in a folder: venv, pip, metadata, proof. Nobody sees it until it is done."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from overspan.provision.children import WITHOUT_SECRETS, begun, follow
from overspan.provision.interpreters import Interpreter
from overspan.provision.locked import Alias, EngineLock, normal
from overspan.schema.errors import OverspanError
from overspan.store.locks import Say, quiet
from overspan.transport.local import Local

# pip asks the index for one package after another: two at once took 73 s where one took 110 (docs/log.md).
_PIPS = 3
# Each file by itself and without an exit code for a bad one: packages carry templates that are no Python.
_COMPILER = """
import importlib.util, os, py_compile, sys
print("compiling", flush=True)
for name in open(sys.argv[1], encoding="utf-8").read().splitlines():
    if not os.path.exists(importlib.util.cache_from_source(name)):
        py_compile.compile(name, doraise=False, quiet=2)
os.unlink(sys.argv[1])
"""
_NO_MATCH = "No matching distribution found"


class NotSupplied(OverspanError):
    """No index has a package for that Python; another Python may do."""


def build(lock: EngineLock, folder: Path, interpreter: Interpreter, *, say: Say = quiet) -> None:
    """Make the environment at `folder`, and prove it by running it.

    Raises:
        NotSupplied: the package that comes from elsewhere does not exist for this Python.
        OverspanError: a step failed; quotes its line.
    """
    _venv(folder, interpreter)
    _packages(lock, folder, interpreter, say)
    say("compiling")
    _compile(folder)
    if lock.alias is not None:
        _alias(site_packages(folder), lock.alias)
    _prove(lock, folder, say)


def site_packages(folder: Path) -> Path:
    """Where an environment's packages are."""
    return next((folder / "lib").glob("python3.*/site-packages"))


def _venv(folder: Path, interpreter: Interpreter) -> None:
    lines: list[str] = []
    try:
        follow([str(interpreter.path), "-I", "-m", "venv", "--without-pip", str(folder)], lines.append)
        if not _copy_pip(folder, interpreter):
            follow([str(folder / "bin" / "python"), "-I", "-m", "ensurepip"], lines.append)
    except OverspanError as error:
        quote = next((line for line in lines if "ensurepip" in line), error.quote)
        raise OverspanError(
            f"{interpreter.path} cannot make a virtual environment",
            quote=quote,
            next=f"on Debian or Ubuntu: apt install python{interpreter.version}-venv; or --python ANOTHER",
        ) from None


def _copy_pip(folder: Path, interpreter: Interpreter) -> bool:
    """Give an environment the pip that runs here, compiled as it is: 0.5 s, where ensurepip takes 5.

    Returns:
        Whether it answers there. Not so when there is none here, this Python is another, or a distribution cut it up.
    """
    spec = find_spec("pip")
    if (
        spec is None
        or spec.origin is None
        or interpreter.version != f"{sys.version_info.major}.{sys.version_info.minor}"
    ):
        return False
    source, target = Path(spec.origin).parent, site_packages(folder)
    for part in (source, *source.parent.glob("pip-*.dist-info")):
        shutil.copytree(part, target / part.name)
    answer = Local().run([str(folder / "bin" / "python"), "-I", "-m", "pip", "--version"], env=WITHOUT_SECRETS)
    if answer.code != 0:
        for part in target.glob("pip*"):
            shutil.rmtree(part)
    return answer.code == 0


def _packages(lock: EngineLock, folder: Path, interpreter: Interpreter, say: Say) -> None:
    """Several pips side by side, on disjoint parts of the list: no package has files of another."""
    rest = [pin for pin in lock.pins if pin != lock.apart]
    parts = [part for start in range(_PIPS) if (part := rest[start::_PIPS])]
    count = _Count(len(lock.pins), say)
    with ExitStack() as running:
        outputs = [running.enter_context(begun(_pip(folder, part), env=WITHOUT_SECRETS)) for part in parts]
        if lock.apart is not None:
            _apart(lock, lock.apart, folder, interpreter, count)
        for lines in outputs:
            _drain(lock, lines, count)


class _Count:
    """Tells how many packages pip has begun with, and for how long."""

    def __init__(self, total: int, say: Say) -> None:
        self.total, self.say = total, say
        self.begun, self.started = 0, time.monotonic()

    def see(self, line: str) -> None:
        if line.startswith("Collecting "):
            self.begun += 1
            elapsed = time.monotonic() - self.started
            self.say(f"{self.begun} of {self.total} packages, {elapsed:.0f} s: {line.split()[1]}")
        elif line.startswith("Installing collected"):
            self.say(f"{self.begun} of {self.total} packages, {time.monotonic() - self.started:.0f} s: unpacking")


def _pip(folder: Path, pins: list[str]) -> list[str]:
    # -I: what PYTHONPATH holds must not count as installed. Wheels only: nothing is built, nothing of theirs runs.
    options = ["--no-deps", "--only-binary", ":all:", "--no-compile", "--no-input", "--disable-pip-version-check"]
    quieter = ["--progress-bar", "off", "--no-color", "--no-warn-script-location"]
    return [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", *options, *quieter, *pins]


def _compile(folder: Path) -> None:
    """Make the bytecode now, on every core: PYTHONDONTWRITEBYTECODE may stand where the engine will start."""
    sources = [str(path) for path in site_packages(folder).rglob("*.py")]
    cores = os.cpu_count() or 1
    with ExitStack() as running:
        for core in range(cores):
            names = folder / f"compile-{core}.txt"
            names.write_text("\n".join(sources[core::cores]), encoding="utf-8")
            command = [str(folder / "bin" / "python"), "-I", "-c", _COMPILER, str(names)]
            running.enter_context(begun(command))


def _drain(lock: EngineLock, lines: Iterator[str], count: _Count) -> None:
    """Read one pip to its end.

    Raises:
        OverspanError: it failed; quotes its last line that begins with ERROR.
    """
    quote: str | None = None
    try:
        for line in lines:
            quote = line if line.startswith("ERROR") else quote
            count.see(line)
    except OverspanError as error:
        raise OverspanError(
            f"pip could not install the packages of engine {lock.name}",
            quote=quote or error.quote,
            next=f"mend what the line says (pip config list shows pip's indexes), then: "
            f"overspan engine install {lock.name}",
        ) from None


def _apart(lock: EngineLock, pin: str, folder: Path, interpreter: Interpreter, count: _Count) -> None:
    """Install the package that may need an index of its own: pip's configuration first, then that index alone."""
    elsewhere = lock.elsewhere
    assert elsewhere is not None  # noqa: S101 - `apart` exists only with it
    try:
        with begun(_pip(folder, [pin])) as lines:
            return _drain(lock, lines, count)
    except OverspanError as error:
        if _NO_MATCH not in (error.quote or ""):
            raise
    index = os.environ.get(elsewhere.variable) or elsewhere.index
    shown = urlsplit(index)._replace(netloc=urlsplit(index).netloc.rpartition("@")[2]).geturl()
    count.say(f"{pin} is not on pip's own indexes; asking {shown}")
    try:
        # By the environment, not by argv: an index's address may carry a password.
        with begun(_pip(folder, [pin]), env={**WITHOUT_SECRETS, "PIP_INDEX_URL": index}) as lines:
            _drain(lock, lines, count)
    except OverspanError as error:
        raise NotSupplied(
            f"{pin} for Python {interpreter.version}: neither pip's own indexes nor {shown} supply it",
            quote=error.quote,
            next=f"name an index that has it: export {elsewhere.variable}=URL, or give pip a folder that has the "
            f"wheel: export PIP_FIND_LINKS=FOLDER; then: overspan engine install {lock.name}",
        ) from None


def distributions(folder: Path) -> dict[str, tuple[str, Path]]:
    """The installed distributions: normal name -> (version, its dist-info)."""
    found: dict[str, tuple[str, Path]] = {}
    for info in site_packages(folder).glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        found[normal(name)] = (version, info)
    return found


def _alias(site: Path, alias: Alias) -> None:
    """Write metadata for a second name: name and version alone, so that nothing is registered twice."""
    info = site / f"{re.sub(r'[-.]+', '_', alias.name)}-{alias.version}.dist-info"
    info.mkdir()
    summary = f"Another name of {alias.of} in this environment, written by overspan"
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {alias.name}\nVersion: {alias.version}\nSummary: {summary}\n", encoding="utf-8"
    )
    (info / "INSTALLER").write_text("overspan\n", encoding="utf-8")
    files = "".join(f"{info.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD"))
    (info / "RECORD").write_text(files, encoding="utf-8")


def _prove(lock: EngineLock, folder: Path, say: Say) -> None:
    """Run the environment: every pin is there, its script answers, and its probe prints the locked version."""
    say("checking it")
    found = distributions(folder)
    for pin in lock.pins:
        name, _, version = pin.partition("==")
        if found.get(normal(name), ("", folder))[0] != version:
            raise OverspanError(f"engine {lock.name}: pip ended well, yet {pin} is not in {folder}")
    lines: list[str] = []
    clean = {**WITHOUT_SECRETS, "PYTHONPATH": "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    try:
        follow([str(folder / "bin" / "python"), "-I", "-c", lock.probe], lines.append, env=clean)
        if lock.script is not None:
            follow([str(folder / "bin" / lock.script), "--version"], lambda _: None, env=clean)
    except OverspanError as error:
        raise OverspanError(
            f"engine {lock.name} was installed but does not run here: {error.what}",
            quote=error.quote,
            next="this machine's CPU or system libraries may be too old for it: overspan doctor",
        ) from None
    if lines[-1:] != [lock.version]:
        told = lines[-1] if lines else "nothing"
        raise OverspanError(f"engine {lock.name} should be {lock.version}, and says {told}")
