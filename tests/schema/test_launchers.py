"""What an inventory says about its launcher."""

import pytest
from pydantic import ValidationError

from overspan.schema.inventory import ContainerRuntime, Host, Inventory


def machines(launcher: str, **container: object) -> Inventory:
    held = ContainerRuntime.model_validate(container) if container else None
    return Inventory(launcher=launcher, hosts=[Host(name="a", memory_bytes=1, container=held)])


def test_an_unknown_launcher_is_told_with_the_known_ones() -> None:
    with pytest.raises(ValidationError, match="expected 'local', 'docker' or 'slurm'"):
        machines("kubernetes")


@pytest.mark.parametrize("kind", ["podman", "enroot"])
def test_a_container_engine_that_no_command_would_use_is_refused(kind: str) -> None:
    with pytest.raises(ValidationError, match=r"kind enroot of a|'docker' or 'enroot'"):
        machines("docker", kind=kind)


def test_enroot_is_for_slurm_and_a_recipe_without_image_needs_no_container() -> None:
    slurm = machines("slurm", kind="enroot")
    assert (slurm.contains("vllm:1"), slurm.contains(None)) == (True, False)
    assert (machines("docker").contains(None), machines("local").contains("vllm:1")) == (True, False)
