"""Docker's commands about images, and of containers that end at once, as values: the one home for all who ask."""

from __future__ import annotations

from collections.abc import Sequence


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
