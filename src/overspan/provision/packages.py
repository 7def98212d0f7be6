"""Packages of Python by `uv`: it makes environments and installs pinned wheels into them.

Users have told pip where packages come from, so uv is told the same: `pip config list` names the indexes. What `UV_...`
variables say goes first.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from overspan.provision.children import follow, without_secrets
from overspan.schema.base import Frozen
from overspan.schema.errors import InputError, OverspanError
from overspan.transport.local import Local

# A shim of a version manager may stand on PATH and start nothing.
_ANSWER_S: Final = 60.0
_ASK: Final = "import sys; print(sys.executable); print('%d.%d' % sys.version_info[:2])"
_KEPT: Final = ("UV_", "PIP_")
"""What these hold for an index (a password in its address, a keyring) is meant for it."""
_SAME_IN_UV: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
    "cert": "SSL_CERT_FILE",
    "client-cert": "SSL_CLIENT_CERT",
    "proxy": "ALL_PROXY",
}
"""Options of pip and the variables that say the same to uv. Source: docs.astral.sh/uv, environment variables."""


class NotSupplied(OverspanError):
    """No index has a package for that Python; another Python may do."""


class Interpreter(Frozen):
    """A Python that answers: its path, and its version as major.minor."""

    path: Path
    version: str


def interpreters(given: str | None, supported: list[str]) -> Iterator[Interpreter]:
    """The interpreters to try, best first: the one given and no other, or the running one and then those on PATH.

    Raises:
        InputError: the one given does not run or is not supported, or none was found.
    """
    takes = " or ".join(supported)
    if given is not None:
        interpreter = _asked(given)
        if interpreter is None:
            raise InputError(
                f"--python {given}: nothing there answers as Python", next="give the path of an interpreter"
            )
        if interpreter.version not in supported:
            raise InputError(
                f"--python {given} is Python {interpreter.version}; this engine takes {takes}",
                next=f"give another, for example --python python{supported[0]}",
            )
        yield interpreter
        return
    names = [sys.executable, *(f"python{version}" for version in supported)]
    found: set[str] = set()
    for interpreter in map(_asked, names):
        # Another Python of the same version takes the same wheels.
        if interpreter is not None and interpreter.version in supported and interpreter.version not in found:
            found.add(interpreter.version)
            yield interpreter
    if not found:
        running = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InputError(
            f"no Python that this engine runs on: it takes {takes}; this one is {running}, "
            f"and none of those is on PATH",
            next=f"install Python {supported[0]}, or name one: overspan engine install NAME --python PATH",
        )


def make_environment(folder: Path, interpreter: Interpreter) -> None:
    """Make an empty virtual environment.

    Raises:
        OverspanError: uv is not there, or could not make it.
    """
    command = [_uv(), "venv", "--quiet", "--no-config", "--no-project", "--allow-existing"]
    try:
        follow([*command, "--python", str(interpreter.path), str(folder)], lambda _: None)
    except OverspanError as error:
        raise OverspanError(
            f"{interpreter.path} cannot make a virtual environment", quote=error.quote, next="--python ANOTHER"
        ) from None


def install(
    pins: Sequence[str],
    *,
    python: Path,
    on_line: Callable[[str], None],
    index: str | None = None,
    target: Path | None = None,
) -> None:
    """Install wheels into an environment: those alone, without what they depend on. Nothing is built.

    Args:
        pins: as name==version.
        python: the environment's interpreter.
        on_line: told what uv says.
        index: the only place to ask; None asks those of uv's and pip's configuration.
        target: a folder of packages to install into, in place of the environment. Its cache is beside it.

    Raises:
        NotSupplied: an index answers, and has no such wheel.
        OverspanError: quotes what uv says.
    """
    folder = target or python.parent.parent
    command = [_uv(), "pip", "install", "--no-deps", "--only-binary", ":all:", "--no-progress", "--color", "never"]
    command += ["--directory", str(folder), "--python", str(python)]
    command += ["--target", str(target)] if target else []
    own = {"UV_DEFAULT_INDEX": index, "UV_INDEX": "", "UV_FIND_LINKS": ""} if index else _as_pip_is_told()
    if own.pop("PIP_NO_INDEX", None):
        command.append("--no-index")
    if target:
        own["UV_CACHE_DIR"] = str(target.with_name(f"{target.name}.cache"))
    lines: list[str] = []

    def see(line: str) -> None:
        lines.append(line.strip())
        on_line(line.strip())

    # `==2.13.0` would take 2.13.0+cpu of another index as well. Source: PEP 440, arbitrary equality.
    exact = [pin.replace("==", "===", 1) for pin in pins]
    try:
        follow([*command, "--", *exact], see, env={**without_secrets(_KEPT), **own, "UV_NO_WRAP": "1"})
    except OverspanError as error:
        start = next((at for at, line in enumerate(lines) if line.startswith("error:")), len(lines))
        quote = " ".join(lines[start:]) or error.quote
        kind = NotSupplied if "No solution found" in (quote or "") else OverspanError
        raise kind(f"uv could not install {pins[0] if len(pins) == 1 else 'the packages'}", quote=quote) from None


def shown(index: str) -> str:
    """The address of an index without its user and password."""
    return urlsplit(index)._replace(netloc=urlsplit(index).netloc.rpartition("@")[2]).geturl()


def _uv() -> str:
    from uv import find_uv_bin

    try:
        return find_uv_bin()
    except FileNotFoundError:
        found = shutil.which("uv")
    if found is None:
        raise OverspanError("uv is not installed", next=f"{sys.executable} -m pip install uv")
    return found


def _as_pip_is_told() -> dict[str, str]:
    """Variables that tell uv what pip's configuration says; what a variable of uv says already is left out."""
    pip = _pip_configuration()
    own = {_SAME_IN_UV[name]: value for name, value in pip.items() if name in _SAME_IN_UV}
    own = {name: " ".join(value.split()) for name, value in own.items()}
    if "UV_INDEX" in own:
        own["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip does: the first index that has the pin
    # uv ends where a folder is missing, and pip goes on.
    links = [link for link in pip.get("find-links", "").split() if "://" in link or Path(link).expanduser().is_dir()]
    if links:
        own["UV_FIND_LINKS"] = ",".join(links)
    told = {name: value for name, value in own.items() if not os.environ.get(name)}
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        told["PIP_NO_INDEX"] = "1"
    return told


def _pip_configuration() -> dict[str, str]:
    """pip's options by name: for `pip install` before global ones, and the environment before both."""
    answer = Local().run([sys.executable, "-I", "-m", "pip", "config", "list"], env=without_secrets(_KEPT))
    found: dict[str, str] = {}
    for section in ("global", "install"):
        for line in answer.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(f"{section}."):
                found[name.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    prefix = "PIP_"  # read here as well: this Python may have no pip
    own = {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}
    return found | {name.lower().replace("_", "-"): value for name, value in own.items()}


def _asked(name: str) -> Interpreter | None:
    """The interpreter of a name or path, or None when nothing there answers as a Python does."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        answer = Local().run([path, "-I", "-c", _ASK], env=without_secrets(), timeout_s=_ANSWER_S)
        executable, version = answer.stdout.splitlines()
    except (OverspanError, OSError, ValueError):
        return None
    return Interpreter(path=Path(executable), version=version)
