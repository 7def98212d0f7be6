"""The same container image on every host: compared by id, copied only to hosts that have another or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from overspan.schema.errors import InputError, OverspanError
from overspan.store.locks import Say, quiet
from overspan.transport import docker
from overspan.transport.copying import ReachableHost, choose_route, stream
from overspan.transport.docker import ImageRecord

QUERY_TIMEOUT_S: Final = 30.0

ARCHITECTURES: Final[Mapping[str, str]] = {"amd64": "x86_64", "arm64": "aarch64"}
"""Docker's names (GOARCH) and the kernel's (`uname -m`). Source: go.dev/doc/install/source#environment."""


def find_image(end: ReachableHost, name: str) -> ImageRecord | None:
    """The image that a host has under a name, or None.

    Raises:
        HostUnreachable: the host does not answer.
        OverspanError: its Docker engine does not.
    """
    done = end.transport.run(docker.image_inspect(name, docker.IMAGE), timeout_s=QUERY_TIMEOUT_S)
    if done.code != 0 and "no such image" in done.stderr.lower():
        return None
    return docker.parse_image(done.check(f"looking for image {name}").stdout)


def same_image(ends: Sequence[ReachableHost], name: str, *, say: Say = quiet) -> list[str]:
    """Bring the image that the first host has (or the first that has any) to every host with another or none.

    Returns:
        The hosts that it was copied to.

    Raises:
        InputError: no host has it, or it is made for another architecture than a host's.
        HostUnreachable: a host does not answer.
        OverspanError: what arrived is not the same image.
    """
    if not name or name.startswith("-"):
        raise InputError(f"not a name of an image: {name!r}")
    found = [(end, find_image(end, name)) for end in ends]
    source, wanted = next(((end, image) for end, image in found if image is not None), (None, None))
    if source is None or wanted is None:
        raise InputError(
            f"no host has image {name}",
            next=f"on {ends[0].host.name}: docker pull {name}   (the others get it from there)",
        )
    lacking = [end for end, image in found if image is None or image.id != wanted.id]
    for end in lacking:
        _require_architecture(end, name, wanted)
    for end in lacking:
        _copy(source, end, name, wanted, say)
    return [end.host.name for end in lacking]


def _require_architecture(end: ReachableHost, name: str, image: ImageRecord) -> None:
    machine = ARCHITECTURES.get(image.architecture, image.architecture)
    if end.host.arch and machine != end.host.arch:
        raise InputError(
            f"image {name} is made for {image.architecture}, and {end.host.name} is {end.host.arch}",
            next=f"docker pull {name} on {end.host.name}, or name an image of its own in the inventory",
        )


def _copy(source: ReachableHost, target: ReachableHost, name: str, wanted: ImageRecord, say: Say) -> None:
    route = choose_route(source, target)
    way = "directly" if route == "direct" else "through this machine"
    say(f"copying image {name} from {source.host.name} to {target.host.name}, {way}")
    stream(source, docker.image_save(name), target, docker.image_load(), route)
    arrived = find_image(target, name)
    if arrived is None or arrived.id != wanted.id:
        has = "nothing" if arrived is None else arrived.id
        raise OverspanError(
            f"image {name} did not arrive on {target.host.name}: it has {has}, {source.host.name} has {wanted.id}"
        )
