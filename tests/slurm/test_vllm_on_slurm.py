"""Real vLLM on real Slurm nodes: aggregated over two nodes, and prefill and decode apart, with the same tokens."""

import json

import httpx
import pytest

from overspan.catalog import recipes
from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.schema.recipe import RoleSettings
from overspan.schema.yamlio import dump
from overspan.store.run_folder import RunFolder, all_runs
from slurm.conftest import Rack, failed
from support.waiting import until

pytestmark = pytest.mark.real

PROMPTS = [
    "The capital of France is a city that lies on the river Seine and has been the seat of kings, and its name is",
    "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
]


def installed(name: str) -> str:
    try:
        return str(engines.find(name).path)
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")


@pytest.fixture
def real_rack(rack: Rack) -> Rack:
    rack.change_top(engine_environment=installed("cpu"), models={})
    return rack


@pytest.fixture
def rack_apart(real_rack: Rack) -> Rack:
    """With vLLM's router too."""
    real_rack.change_top(router_environment=installed("router"))
    return real_rack


def up(rack: Rack, *more: str) -> RunFolder:
    done = rack.run("up", "smollm2-135m", "--on", str(rack.inventory), "--set", "port=8030", *more)
    assert done.returncode == 0, done.stderr
    return all_runs()[0]


def tokens(run: RunFolder) -> list[str]:
    url = f"{run.plan().endpoint.base_url}/completions"
    body = {"model": run.plan().endpoint.model, "max_tokens": 24, "temperature": 0}
    replies = [httpx.post(url, json={**body, "prompt": prompt}, timeout=120, trust_env=False) for prompt in PROMPTS]
    return [reply.raise_for_status().json()["choices"][0]["text"] for reply in replies]


SWEEP = """name: apart
base: smollm2-135m
scenarios: {s: {isl: 32, osl: 8}}
load: {requests_per_user: 2, warmup_per_user: 0}
points:
  - {topology: 1P1D TP1->TP1, concurrency: [1, 2]}
"""


@pytest.mark.slow
def test_a_sweep_with_prefill_and_decode_apart(rack_apart: Rack) -> None:
    file = rack_apart.folder / "apart.yaml"
    file.write_text(SWEEP)
    done = rack_apart.run("sweep", str(file), "--on", str(rack_apart.inventory), "--json")
    assert done.returncode == 0, done.stderr
    assert [point["state"] for point in json.loads(done.stdout)["points"]] == ["ok"] * 2
    (run,) = all_runs()
    assert [spec.role for spec in run.processes()] == ["router", "prefill", "decode"]
    assert len(rack_apart.jobs_that_were()) == 1
    rack_apart.nothing_left()


@pytest.mark.timeout(900)
def test_apart_answers_as_aggregated_does(rack_apart: Rack) -> None:
    expected = _aggregated(rack_apart)
    for topology, instances in (("1P1D TP1->TP1", "1 of 1 decode"), ("1P2D TP1->TP1", "2 of 2 decode")):
        run = up(rack_apart, "--set", f"topology={topology}")
        findings = {finding.rule: finding for finding in run.findings()}
        assert findings["disagg.instances"].status == "passed"
        assert instances in str(findings["disagg.instances"].evidence)
        assert "took over" in str(findings["disagg.transfer"].evidence)
        assert tokens(run) == expected
        if instances.startswith("2"):
            engines_there = [each for number in range(4) for each in rack_apart.of_host(number)]
            next(each for each in engines_there if "8032" in each.cmdline()).kill()
            assert failed(run).process == "decode0"
        rack_apart.run("stop")
        rack_apart.nothing_left()


def _aggregated(rack: Rack) -> list[str]:
    """The tokens of one engine over two nodes."""
    run = up(rack, "--set", "layout=pp2")
    assert [(each.name, each.host, each.ranks) for each in run.processes()] == [
        ("api", "a", [0]),
        ("worker1", "b", [1]),
    ]
    assert {finding.rule: finding.status for finding in run.findings()}["verify.known-answer"] == "passed"
    answered = tokens(run)
    assert "Paris" in answered[0]
    assert rack.run("stop").returncode == 0
    assert run.state() == "stopped"
    rack.nothing_left()
    return answered


def test_a_broken_transfer_fails_and_does_not_answer(rack_apart: Rack) -> None:
    def role(name: str) -> RoleSettings:
        apart = {"kv_connector_extra_config": {"shared_storage_path": f"/srv/kv-{name}"}}
        config = {"kv_connector": "ExampleConnector", "kv_role": "kv_both", **apart}
        return RoleSettings(engine_args={"kv_transfer_config": config})

    roles = {"prefill": role("prefill"), "decode": role("decode")}
    changes = {"roles": roles, "port": 8030, "topology": "1P1D TP1->TP1"}
    file = rack_apart.folder / "broken.yaml"
    file.write_text(dump(recipes.find("smollm2-135m").with_(**changes)))
    done = rack_apart.run("up", str(file), "--on", str(rack_apart.inventory))
    assert done.returncode == 1, done.stderr
    assert "no cache was transferred" in done.stderr
    until(lambda: all_runs()[0].state() == "failed", "the state failed")
    rack_apart.nothing_left()
