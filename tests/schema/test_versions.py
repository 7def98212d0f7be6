"""Versions: what is no version, and conditions in as many numbers as they have."""

import pytest
from packaging.version import Version

from overspan.schema.versions import holds, version_of


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("v0.16.0rc2", "0.16.0"),
        ("0.32.0+cpu", "0.32"),
        ("0.9-cu129", "0.9"),
        ("nightly", None),
        (None, None),
        ("7", None),
    ],
)
def test_the_release_of_a_version(text: str | None, release: str | None) -> None:
    assert version_of(text) == (Version(release) if release else None)


@pytest.mark.parametrize(
    ("condition", "version", "met"),
    [
        (">=0.27", "0.27.0", True),
        ("<0.27.0", "0.27", False),
        ("<=0.27", "0.27.1", True),
        (">0.27", "0.27.1", False),
        ("== 0.32", "0.32.0+cpu", True),
        ("=13.0", "13.0.2", True),
        (">=0.10", "0.9.2", False),
        ("<570", "", False),
    ],
)
def test_a_condition_is_compared_in_as_many_numbers_as_it_has(condition: str, version: str, met: bool) -> None:
    assert holds(condition, version) is met
