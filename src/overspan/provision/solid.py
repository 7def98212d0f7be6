"""A model's folder without links, for mounts and copies: the hub's cache keeps files apart and links to them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from overspan.schema.places import cache_dir


def solid(folder: Path) -> Path:
    """The folder itself where it holds no symbolic link, else a copy of it made of hard links: it costs no space on the
    same file system. Made once, under a temporary name, then renamed."""
    if not any(path.is_symlink() for path in folder.rglob("*")):
        return folder
    target = cache_dir() / "models" / f"solid-{folder.parent.parent.name}-{folder.name}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".solid-", dir=target.parent) as scratch:
        made = Path(scratch) / "model"
        shutil.copytree(folder, made, symlinks=False, copy_function=_link_or_copy)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else somebody was quicker
                raise
    return target


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:  # another file system
        shutil.copy2(source, target)
