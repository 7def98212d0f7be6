"""An own vLLM, named once with `overspan engine use PATH` and kept for this user on this machine."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Final

from pydantic import Field

from overspan.provision import environments
from overspan.provision.children import without_secrets
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.schema.inventory import DeviceKind
from overspan.schema.places import state_dir
from overspan.store.files import read_document, write_whole
from overspan.transport.local import Local

_LIMIT_S: Final = 60.0
_PYTHON: Final = re.compile(r"(?:python|pypy)[\d.]*")
_ASK: Final = """
import sys
sys.path[:] = [path for path in sys.path if path]
import json
from importlib.metadata import PackageNotFoundError, distribution
try:
    held = distribution("vllm")
    programs = [str(f.locate()) for f in held.files or [] if f.name == "vllm" and f.parent.name == "bin"]
    print(json.dumps([held.version, programs[:1]]))
except PackageNotFoundError:
    print("[null, []]")
"""
"""Reads metadata alone: importing vllm takes many seconds."""


class OwnEngine(Frozen):
    """The vLLM that the user named."""

    path: Path = Field(description="folder of its environment, which has bin/vllm")
    version: str
    device: DeviceKind | None = Field(None, description="what it computes on; none where that is not known")

    @property
    def is_there(self) -> bool:
        """Whether it still is where it was."""
        return (self.path / "bin" / "vllm").exists()


def use(given: Path) -> OwnEngine:
    """Keep the vLLM that a path names: a Python, the folder of an environment, or its bin/vllm.

    Raises:
        InputError: there is no vLLM; tells what was looked at.
    """
    found = look_at(given)
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, found.model_dump_json(indent=2) + "\n")
    return found


def forget() -> bool:
    """Take it back; whether there was one."""
    there = _file().exists()
    _file().unlink(missing_ok=True)
    return there


def find() -> OwnEngine | None:
    """The one that was named on this machine, with the version that is in it now; None where none was.

    Raises:
        InputError: the file that keeps it is damaged.
    """
    if not _file().exists():
        return None
    kept = read_document(_file(), OwnEngine, "record of an engine")
    version = environments.version_in(kept.path)
    return kept.with_(version=version, device=environments.device_in(kept.path)) if version else kept


def look_at(given: Path) -> OwnEngine:
    """The vLLM that a path names.

    Raises:
        InputError: there is none.
    """
    path = given.expanduser().absolute()
    if not path.exists():
        raise _none(given, "nothing is there")
    if path.is_dir():
        python, looked = environments.python_in(path), f"{path}/bin/python and {path}/bin/vllm"
        if python is None:
            raise _none(given, f"looked at {looked}: there is no Python")
    elif _PYTHON.fullmatch(path.name):
        python = path
    else:
        python = environments.interpreter_of(path) or environments.interpreter_of(path.resolve())
        if python is None:
            raise _none(given, "the file is no Python, and its first line names none")
    version, program = _asked(python, given)
    environment = Path(os.path.normpath(program)).parent.parent
    return OwnEngine(path=environment, version=version, device=environments.device_in(environment))


def _asked(python: Path, given: Path) -> tuple[str, str]:
    """Version and program of the vLLM that a Python can import."""
    try:
        answer = Local().run([str(python), "-c", _ASK], env=without_secrets(), timeout_s=_LIMIT_S)
        version, programs = json.loads(answer.stdout.splitlines()[-1])
    except (OverspanError, OSError, ValueError, IndexError):
        raise _none(given, f"{python} does not answer as Python") from None
    if version is None:
        raise _none(given, f"{python} has no package vllm")
    beside = [str(python.with_name("vllm")), *programs]
    program = next((each for each in reversed(beside) if Path(each).exists()), None)
    if program is None:
        raise _none(given, f"{python} has vLLM {version}, and no program bin/vllm is beside it")
    return version, program


def _none(given: Path, why: str) -> InputError:
    return InputError(
        f"{given} is no vLLM: {why}",
        next="overspan engine use PATH: a Python that has vLLM, its environment's folder, or its bin/vllm",
    )


def _file() -> Path:
    """One a machine: a home folder may be shared by machines of different kinds."""
    return state_dir() / "own-engine" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', platform.node())}.json"
