"""A folder of packages for the engine's processes, by launcher; what an image or a recipe says goes on to count."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overspan.launchers.docker import DockerLauncher
from overspan.schema.inventory import Host
from overspan.schema.process import Mount, ProcessSpec
from overspan.transport.fake import Fake, Reply
from support.plans import plan_on

SPEC = ProcessSpec(name="api", host="one", image="an:image", argv=["serve"], ranks=[0])


@pytest.mark.parametrize(
    ("image", "env", "path"),
    [
        ([], {}, "/the/plugin"),
        (["PATH=/bin", "PYTHONPATH=/workspace/dynamo"], {}, "/the/plugin:/workspace/dynamo"),
        (["PYTHONPATH=/image"], {"PYTHONPATH": "/recipe"}, "/the/plugin:/recipe:/image"),
        (None, {"PYTHONPATH": "/recipe"}, "/the/plugin:/recipe"),
    ],
)
def test_a_container_sees_them_first_and_its_own_behind(
    image: list[str] | None, env: dict[str, str], path: str
) -> None:
    host = Fake("one", [Reply(argv=["docker", "image", "inspect", "**"], stdout=json.dumps(image))])
    launcher = DockerLauncher(plan_on([Host(name="one", memory_bytes=1)]), transports={"one": host})
    found = launcher.with_packages(Path("/the/plugin"), [SPEC.with_(env=env)], print)
    assert isinstance(found, list)
    (spec,) = found
    assert spec.env == {**env, "PYTHONPATH": path}
    assert spec.mounts == [Mount(source="/the/plugin", target="/the/plugin")]


def test_an_image_that_cannot_be_looked_at_is_left_alone() -> None:
    host = Fake("one", [Reply(argv=["docker", "image", "inspect", "**"], code=1)])
    launcher = DockerLauncher(plan_on([Host(name="one", memory_bytes=1)]), transports={"one": host})
    assert "does not tell its PYTHONPATH" in launcher.with_packages(Path("/the/plugin"), [SPEC], print)
