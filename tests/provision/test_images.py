"""Images and the architectures of hosts, without a container engine."""

from __future__ import annotations

import pytest

from overspan.provision import images
from overspan.schema.errors import InputError
from overspan.schema.inventory import Host
from overspan.transport.copying import ReachableHost
from overspan.transport.docker import ImageRecord
from overspan.transport.local import Local

ARM_IMAGE = ImageRecord("sha256:" + "ab" * 32, "arm64")


def end(name: str, **facts: str) -> ReachableHost:
    return ReachableHost(Host.model_validate({"name": name, "memory_bytes": 2**30, **facts}), Local())


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first host has an image for Arm, another has none; who was sent it."""
    sent: list[str] = []
    monkeypatch.setattr(images, "find_image", lambda end, name: ARM_IMAGE if end.host.name == "spark1" else None)
    monkeypatch.setattr(images, "_copy", lambda source, target, name, wanted, say: sent.append(target.host.name))
    return sent


def test_a_host_whose_architecture_nobody_stated_is_not_refused_by_a_guess(copied: list[str]) -> None:
    assert images.same_image([end("spark1"), end("spark2")], "engine:1") == copied == ["spark2"]


def test_a_host_that_is_known_to_be_another_machine_is_refused(copied: list[str]) -> None:
    with pytest.raises(InputError, match="engine:1 is made for arm64, and node2 is x86_64"):
        images.same_image([end("spark1"), end("spark2", arch="aarch64"), end("node2", arch="x86_64")], "engine:1")
    assert copied == []
