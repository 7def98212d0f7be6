"""Tiny wheels made here, and engine locks made of them: an install that takes seconds and needs no network."""

from __future__ import annotations

import zipfile
from pathlib import Path

from overspan.provision.locked import Alias, Elsewhere, EngineLock


def make_wheel(
    folder: Path, name: str, version: str, files: dict[str, str] | None = None, script: bool = False
) -> Path:
    """A pure wheel. Its module says its version; with `script`, a console command of its name prints it too."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    module = f"__version__ = {version!r}\ndef main():\n    print(__version__)\n"
    content = {
        f"{name}/__init__.py": module,
        **(files or {}),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if script:
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{name} = {name}:main\n"
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)
    return wheel


def make_lock(pins: list[str], python: list[str], **fields: object) -> EngineLock:
    """A lock of the tiny packages `tiny` and whatever else is pinned."""
    base: dict[str, object] = {
        "name": "tiny",
        "description": "tiny engine",
        "requirements": "tiny.txt",
        "version": "1.0",
        "python": python,
        "needs_bytes": 1000,
        "alias": Alias(of="tiny", name="big", version="1.0+cpu"),
        "script": "tiny",
        "probe": "import tiny\nfrom importlib.metadata import version\nassert version('big') == '1.0+cpu'\n"
        "print(tiny.__version__)",
        "pins": pins,
    }
    return EngineLock.model_validate({**base, **fields})


def torch_elsewhere(index: str) -> Elsewhere:
    """What stands in for torch's own index."""
    return Elsewhere(package="fatlib", index=index, variable="OVERSPAN_TORCH_INDEX")
