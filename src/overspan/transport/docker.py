"""Docker's commands about images, and of containers that end at once, as values: the one home for all who ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

IMAGE: Final = "{{.Id}} {{.Architecture}}"
"""The template whose text `parse_image` reads."""


@dataclass(frozen=True)
class ImageRecord:
    """A container image of a host; equal ids are equal images. `architecture` is Docker's word: amd64, arm64."""

    id: str
    architecture: str


def parse_image(text: str) -> ImageRecord | None:
    """`sha256:... arm64`; None where it is anything else."""
    found = re.fullmatch(r"(sha256:[0-9a-f]{64}) (\w+)", text.strip())
    return ImageRecord(found[1], found[2]) if found else None


def image_inspect(image: str, template: str) -> list[str]:
    """Prints what a Go template makes of an image's record; ends with 1 where the host has no such image."""
    return ["docker", "image", "inspect", "--format", template, "--", image]


def image_save(image: str) -> list[str]:
    """Prints an image as a tar."""
    return ["docker", "save", "--", image]


def image_load() -> list[str]:
    """Takes an image from standard input."""
    return ["docker", "load", "--quiet"]


def run_once(image: str, program: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
    """Runs a program in a container without a network, which is gone when it ends. The image is never pulled."""
    sealed = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", program]
    return [*sealed, *options, "--", image, *arguments]
