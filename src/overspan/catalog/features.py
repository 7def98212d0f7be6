"""What engines can do, since which version, and which patch brings it to others."""

import functools
from typing import Any

from overspan.catalog import files
from overspan.schema.base import Frozen
from overspan.schema.errors import UnknownName
from overspan.schema.versions import version_of
from overspan.schema.yamlio import plain


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
