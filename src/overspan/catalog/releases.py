"""What engines can do: since which version, which patch brings it to others, and which container images hold it."""

import functools
import re
from typing import Any, Final

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.errors import UnknownName
from overspan.schema.versions import version_of
from overspan.schema.yamlio import plain

_TAGGED = re.compile(r"(?:^|/)vllm(?:-openai)?(?:-[a-z0-9]+)?:v?(\d+\.\d+\.\d+)")

USUAL: Final = "vllm/vllm-openai:v{version}"
"""The image of vLLM's own releases for x86 and ARM (https://hub.docker.com/r/vllm/vllm-openai)."""


class Feature(Frozen):
    """One feature of vLLM. At least one of `since` and `patch` is there."""

    name: str
    says: str
    since: str | None = None
    patch: str | None = None
    source: str

    def missing(self, version: str | None) -> bool:
        """Whether an engine of this version lacks it as far as is known; an unknown version lacks nothing for sure."""
        have = version_of(version)
        needed = version_of(self.since)
        return have is not None and (needed is None or have < needed)

    @property
    def where(self) -> str:
        """`vLLM has it since 0.25.0; the patch URL brings it to others`."""
        parts = [f"vLLM has it since {self.since}"] if self.since else ["no release is known to have it"]
        parts += [f"the patch {self.patch} brings it to others"] if self.patch else []
        return "; ".join(parts)


@functools.lru_cache(maxsize=1)
def catalogue() -> dict[str, Feature]:
    """Every known feature by its name."""
    data: dict[str, dict[str, Any]] = plain(files.text("features.yaml"))["features"]
    return {name: Feature(name=name, **item) for name, item in data.items()}


def find(name: str) -> Feature:
    """A feature by its name.

    Raises:
        UnknownName: there is none; tells the nearest.
    """
    known = catalogue()
    if name not in known:
        raise UnknownName("engine feature", name, known, next=f"known: {', '.join(known)}")
    return known[name]


@functools.lru_cache(maxsize=1)
def _images() -> dict[str, dict[str, Any]]:
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
    matches = [prefix for prefix in _images() if image.startswith(prefix)]
    return _images()[max(matches, key=len)] if matches else {}
