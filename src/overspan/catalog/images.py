"""Which engine version a container image holds, as far as its name tells."""

from __future__ import annotations

import functools
import re
from typing import Any, Final

from overspan.catalog import files
from overspan.schema.yamlio import plain

_TAGGED = re.compile(r"(?:^|/)vllm(?:-openai)?(?:-[a-z0-9]+)?:v?(\d+\.\d+\.\d+)")

USUAL: Final = "vllm/vllm-openai:v{version}"
"""The image of vLLM's own releases for x86 and ARM (https://hub.docker.com/r/vllm/vllm-openai)."""


@functools.lru_cache(maxsize=1)
def _known() -> dict[str, dict[str, Any]]:
    versions: dict[str, dict[str, Any]] = plain(files.text("images.yaml"))["versions"]
    return versions


def engine_version(image: str | None) -> str | None:
    """The version of vLLM in an image; None where its name does not tell."""
    if not image:
        return None
    found = _entry(image).get("version")
    if found:
        return str(found)
    tagged = _TAGGED.search(image)
    return tagged.group(1) if tagged else None


def brings(image: str | None) -> list[str]:
    """Features (see features.yaml) that an image has by patches, whatever its version says."""
    return list(_entry(image).get("brings", [])) if image else []


def _entry(image: str) -> dict[str, Any]:
    matches = [prefix for prefix in _known() if image.startswith(prefix)]
    return _known()[max(matches, key=len)] if matches else {}
