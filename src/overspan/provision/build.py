"""Make one engine environment in a folder: packages, metadata, proof. Nobody sees it until it is done."""

from __future__ import annotations

import os
import re
from pathlib import Path

from overspan.provision import packages
from overspan.provision.children import follow, without_secrets
from overspan.provision.environments import distributions_of
from overspan.provision.locked import Alias, EngineLock, normal
from overspan.provision.packages import Interpreter, NotSupplied
from overspan.schema.errors import OverspanError
from overspan.schema.units import count
from overspan.store.locks import Say, quiet

_SCRIPT = """
import runpy, sys
sys.argv = [{}, "--version"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def build(lock: EngineLock, folder: Path, interpreter: Interpreter, *, say: Say = quiet) -> None:
    """Make the environment at `folder`, and prove it by running it.

    Raises:
        NotSupplied: the package that comes from elsewhere does not exist for this Python.
        OverspanError: a step failed; quotes its line.
    """
    packages.make_environment(folder, interpreter)
    python = folder / "bin" / "python"
    if lock.apart is not None:
        _apart(lock, lock.apart, python, interpreter.version, say)
    rest = [pin for pin in lock.pins if pin != lock.apart]
    say(f"fetching {count(len(rest), 'package')}")
    try:
        packages.install(rest, python=python, on_line=say)
    except OverspanError as error:
        raise OverspanError(
            f"uv could not install the packages of engine {lock.name}",
            quote=error.quote,
            next=f"correct what the line says (pip config list shows the indexes), then: "
            f"overspan engine install {lock.name}",
        ) from None
    if lock.alias is not None:
        _alias(site_packages(folder), lock.alias)
    _prove(lock, folder, say)


def site_packages(folder: Path) -> Path:
    """Where an environment's packages are."""
    return next((folder / "lib").glob("python3.*/site-packages"))


def distributions(folder: Path) -> dict[str, tuple[str, Path]]:
    """The installed distributions: normal name -> (version, its dist-info)."""
    return distributions_of(site_packages(folder).glob("*.dist-info"))


def _apart(lock: EngineLock, pin: str, python: Path, version: str, say: Say) -> None:
    """Install the package that may need an index of its own: the user's indexes first, then that index alone."""
    elsewhere = lock.elsewhere
    assert elsewhere is not None  # noqa: S101 - `apart` exists only with it
    try:
        return packages.install([pin], python=python, on_line=say)
    except NotSupplied:
        index = os.environ.get(elsewhere.variable) or elsewhere.index
    address = packages.shown(index)
    say(f"{pin} is not on pip's own indexes; asking {address}")
    try:
        return packages.install([pin], python=python, on_line=say, index=index)
    except OverspanError as error:
        raise NotSupplied(
            f"{pin} for Python {version}: neither pip's own indexes nor {address} supply it",
            quote=error.quote,
            next=f"name an index that has it: export {elsewhere.variable}=URL, or name a folder that has the "
            f"wheel: export PIP_FIND_LINKS=FOLDER; then: overspan engine install {lock.name}",
        ) from None


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
    say("checking the environment")
    found = distributions(folder)
    for pin in lock.pins:
        name, _, version = pin.partition("==")
        if found.get(normal(name), ("", folder))[0] != version:
            raise OverspanError(f"engine {lock.name}: uv reported success, but {pin} is not in {folder}")
    clean = {**without_secrets(), "PYTHONPATH": "", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # One process, for each imports for seconds. With -I it leaves the bytecode of what the engine loads at its start,
    # whatever PYTHONDONTWRITEBYTECODE says, and no other: compiling all 20,000 files took longer than fetching them.
    code = "\n".join([lock.probe, lock.check, *(f"import {module}" for module in lock.imports)])
    if lock.script is not None:
        code += _SCRIPT.format(repr(str(folder / "bin" / lock.script)))
    lines: list[str] = []
    try:
        follow([str(folder / "bin" / "python"), "-Iu", "-c", code], lines.append, env=clean)
    except OverspanError as error:
        raise OverspanError(
            f"engine {lock.name} was installed but does not run here: {error.what}",
            quote=error.quote,
            next="this machine's CPU or system libraries may be too old for it: overspan doctor",
        ) from None
    if lock.version not in lines:
        told = lines[-1] if lines else "nothing"
        raise OverspanError(f"engine {lock.name} should be {lock.version}, but reports {told}")
