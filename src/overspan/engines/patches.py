"""Setup patches as commands: in an environment once before the start, in a container just before its program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from overspan.schema.recipe import Patch


def apply(python: str, patches: Sequence[Patch]) -> list[str]:
    """The command that applies them where that Python is."""
    return [python, "-I", *_script(patches)]


def wrapped(program: Sequence[str], patches: Sequence[Patch]) -> list[str]:
    """The program, after the patches of the container that it runs in; none of it begins where one cannot be made."""
    return ["python3", *_script(patches), *program] if patches else list(program)


def _script(patches: Sequence[Patch]) -> list[str]:
    text = (Path(__file__).parent / "engine_side" / "apply_patches.py").read_text(encoding="utf-8")
    return ["-c", text, json.dumps([patch.model_dump(mode="json") for patch in patches])]
