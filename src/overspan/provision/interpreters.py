"""Which Python an engine gets: the first that it runs on, asked and not guessed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from overspan.provision.children import WITHOUT_SECRETS
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.transport.local import Local

_ASK = "import json, sys; print(json.dumps([sys.executable, '%d.%d' % sys.version_info[:2]]))"
# A shim of a version manager may stand on PATH and start nothing; a person waits for no such thing longer than this.
_ANSWER_S = 30.0


class Interpreter(Frozen):
    """A Python that answers."""

    path: Path
    version: str


def choose(given: str | None, supported: list[str]) -> Iterator[Interpreter]:
    """The interpreters to try, best first: the one given and no other, or the running one and then those on PATH.

    Raises:
        InputError: the one given does not run or is not supported, or none was found.
    """
    if given is not None:
        yield _given(given, supported)
        return
    found = False
    for name in [sys.executable, *(f"python{version}" for version in supported)]:
        interpreter = ask(name)
        if interpreter is not None and interpreter.version in supported:
            found = True
            yield interpreter
    if not found:
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InputError(
            f"no Python that this engine runs on: it takes {_any_of(supported)}; this one is {running}, "
            f"and none of those is on PATH",
            next=f"install Python {supported[0]}, or name one: overspan engine install NAME --python PATH",
        )


def ask(name: str) -> Interpreter | None:
    """The interpreter of a name or path, or None when nothing there answers as a Python does."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = Local().run([path, "-I", "-c", _ASK], env=WITHOUT_SECRETS, timeout_s=_ANSWER_S)
        executable, version = json.loads(answer.stdout)
    except (OverspanError, OSError, ValueError):
        return None
    return Interpreter(path=Path(executable), version=version)


def _given(given: str, supported: list[str]) -> Interpreter:
    interpreter = ask(given)
    if interpreter is None:
        raise InputError(f"--python {given}: nothing there answers as Python", next="give the path of an interpreter")
    if interpreter.version not in supported:
        raise InputError(
            f"--python {given} is Python {interpreter.version}; this engine takes {_any_of(supported)}",
            next=f"give another, for example --python python{supported[0]}",
        )
    return interpreter


def _any_of(versions: list[str]) -> str:
    return ", ".join(versions[:-1]) + (" or " if len(versions) > 1 else "") + versions[-1]
