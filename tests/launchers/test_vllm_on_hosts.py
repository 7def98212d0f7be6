"""Real vLLM over two real hosts, one rank in a container on each: it answers, and any rank's death is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from overspan.catalog import overrides, recipes
from overspan.checks.client import Client, NoAnswer
from overspan.engines import vllm
from overspan.launchers.docker import DockerLauncher
from overspan.planner.make import make_plan
from overspan.provision import engines, models
from overspan.schema.errors import EngineMissing
from overspan.schema.plan import EngineChoice, Plan
from overspan.schema.process import Mount, ProcessSpec
from support.containers import launcher
from testbed import image
from testbed.bed import Bed

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]

READY_S = 600.0


@pytest.fixture
def engine() -> engines.EngineEnv:
    try:
        return engines.find("cpu")
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")


def planned(bed: Bed, engine: engines.EngineEnv) -> tuple[Plan, list[ProcessSpec]]:
    recipe = overrides.apply(recipes.find("smollm2-135m"), ["layout=pp2", f"host={bed.hosts[0].address}"])
    model = str(models.prepare(recipe, engine=engine).path)
    choice = EngineChoice(name="vllm", version=engine.version, image=image.NAME)
    plan = make_plan(recipe, bed.inventory(engine=engine.path), choice).model_copy(update={"model_path": model})
    options = {host.name: host.container.options for host in plan.inventory.hosts if host.container is not None}
    return plan, [
        spec.model_copy(
            update={
                "mounts": [*spec.mounts, *([] if spec.mounts else [Mount(source=model, target=model)])],
                "docker_options": spec.docker_options or options[spec.host],
            }
        )
        for spec in vllm.processes(plan)
    ]


def wait_for_token(client: Client, docker: DockerLauncher) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        deaths = docker.wait(1.0)
        assert deaths == []
        try:
            client.one_token()
            return
        except NoAnswer:
            continue
    pytest.fail(f"no token within {READY_S:g} s")


def test_pipeline_over_two_hosts_answers_and_a_killed_rank_is_told(
    bed: Bed, engine: engines.EngineEnv, tmp_path: Path
) -> None:
    plan, specs = planned(bed, engine)
    assert [spec.host for spec in specs] == ["node1", "node2"]
    client = Client(plan.endpoint)
    with launcher(bed, tmp_path) as docker:
        try:
            docker.start_all(specs, {})
            wait_for_token(client, docker)
            assert "Paris" in client.answer("What is the capital of France?", 16)
            worker = next(p for p in bed.hosts[1].processes() if "VLLM::Worker" in " ".join(p.cmdline()))
            worker.kill()
            killed = time.time()
            deaths = docker.wait(60.0)
            assert deaths[0].host == "node2"
            assert "VLLM::Worker" in deaths[0].what or deaths[0].process == specs[1].name
            print(f"told after {time.time() - killed:.2f} s: {deaths[0].what} {deaths[0].how}; {deaths[0].lines[-1:]}")
        finally:
            client.close()
            assert docker.end(5.0) == []
    assert bed.orphans() == []
