"""vLLM on Ray over two hosts, in containers, by `overspan up`: right tokens, its dashboard, and an actor's death."""

import json

import psutil
import pytest
import yaml

from hosts.conftest import Cluster
from overspan.engines import registry
from overspan.launchers import proc
from overspan.prove import proving
from overspan.prove.cases import ask, first_difference
from overspan.provision import engines
from overspan.runs.live import Live
from overspan.schema.errors import EngineMissing
from overspan.store import run_secrets
from support.mixtral import MIXTRAL
from support.waiting import until
from testbed import image

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1500)]

ACTOR = "ray::RayWorkerProc"
DASHBOARD = "http://127.0.0.1:8265/nodes?view=summary"


def actors(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if ACTOR in proc.title(process)]


def test_ray_over_two_hosts_answers_right_shows_its_dashboard_and_tells_an_actors_death(cluster: Cluster) -> None:
    try:
        ray = engines.find("cpu-ray")
        (cluster.folder / "mixtral").mkdir()
        (cluster.folder / "mixtral" / "config.json").write_text(json.dumps(MIXTRAL))
        twin, asked, expected = proving.known_tokens(str(cluster.folder / "mixtral"), print)
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}; run `{missing.next}`")
    recipe = {
        "name": "on-ray",
        "model": str(twin),
        "served_model_name": "twin",
        "engine": "vllm-ray",
        "image": image.NAME,
        "layout": "tp2",
        "port": 8021,
        "engine_args": proving.TWIN_ARGS,
    }
    cluster.recipe.write_text(yaml.safe_dump(recipe))
    inventory = cluster.bed.inventory(engine=ray.path).with_(engine_environment=str(ray.path))
    cluster.inventory.write_text(yaml.safe_dump(inventory.model_dump(mode="json")))
    done = cluster.up()
    assert done.returncode == 0, done.stderr
    run = cluster.newest()
    assert (
        first_difference(asked, expected, ask(run.plan().endpoint, asked, registry.find("vllm-ray").metrics).tokens)
        is None
    )
    assert [len(actors(host.processes())) for host in cluster.bed.hosts] == [1, 1]
    versions = [one for one in json.loads((run.path / "preflight.json").read_text()) if "engine_version" in one["rule"]]
    assert [one["status"] for one in versions] == ["passed", "passed"]
    assert "Ray 2.60.0" in versions[0]["evidence"]["text"]
    head = cluster.bed.hosts[0]
    with Live(run) as live:
        assert live.look(30.0).dashboard == f"http://{head.address}:8265"
    # It answers on the head's loopback, to whoever has the run's token.
    token = run_secrets.read(run)["RAY_AUTH_TOKEN"].get_secret_value()
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", DASHBOARD]
    assert head.run(*curl) == "401"
    assert head.run(*curl, "-H", "@-", stdin=f"Authorization: Bearer {token}".encode()) == "200"
    assert token not in (run.path / "processes.json").read_text() + head.docker("inspect", *cluster.containers()[:1])
    actors(cluster.bed.hosts[1].processes())[0].kill()
    until(lambda: run.state() == "failed", "the state failed")
    assert "node2" in run.last_state().message
    assert ACTOR in run.last_state().message
    cluster.nothing_left()
    assert cluster.bed.orphans() == []
