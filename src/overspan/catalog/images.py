"""Which engine version a container image holds, as far as its name tells."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Any

import yaml

_TAGGED = re.compile(r"(?:^|/)vllm(?:-openai)?(?:-[a-z0-9]+)?:v?(\d+\.\d+\.\d+)")


@functools.lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, Any]]:
    text = resources.files("overspan.catalog").joinpath("images.yaml").read_text(encoding="utf-8")
    versions: dict[str, dict[str, Any]] = yaml.safe_load(text)["versions"]
    return versions


def engine_version(image: str | None) -> str | None:
    """The version of vLLM in an image; None where its name does not tell."""
    if not image:
        return None
    matches = [prefix for prefix in _known() if image.startswith(prefix)]
    if matches:
        return str(_known()[max(matches, key=len)]["version"])
    tagged = _TAGGED.search(image)
    return tagged.group(1) if tagged else None
