"""Prefill and decode apart with plain vLLM: every process of 1P2D, and what is refused."""

import json
import socket
import subprocess
from typing import Any

import pytest

from overspan.engines.dynamo import WAIT_THEN
from overspan.engines.vllm import kv_transfer
from overspan.planner.make import make_plan
from overspan.runs.planning import processes_of
from overspan.schema.errors import PlanRefused, RecipeError
from overspan.schema.inventory import Gpu, Host, Inventory, Slurm
from overspan.schema.plan import EngineChoice
from overspan.schema.process import ProcessSpec
from overspan.schema.recipe import Recipe
from overspan.schema.workload import Demand

ENGINE = EngineChoice(name="vllm", version="0.32.0", environment="/env", router="/router")


def those(inventory: Inventory, topology: str = "1P2D TP1->TP1", **fields: object) -> list[ProcessSpec]:
    given = {"name": "tiny", "model": "tiny/none", "port": 9000, "topology": topology, **fields}
    return processes_of(make_plan(Recipe.model_validate(given), inventory, ENGINE))


def config_of(spec: ProcessSpec) -> dict[str, object]:
    found = json.loads(spec.argv[spec.argv.index("--kv-transfer-config") + 1])
    assert isinstance(found, dict)
    return found


def test_on_one_machine_each_has_its_own_ports_and_the_router_knows_all() -> None:
    router, *workers = those(Inventory(hosts=[Host(name="here", memory_bytes=1 << 40)]))
    assert router.argv == [
        *("/router/bin/vllm-router", "--host", "127.0.0.1", "--port", "9000", "--policy", "round_robin"),
        *("--prometheus-port", "9100", "--vllm-pd-disaggregation", "--worker-startup-timeout-secs", "1800"),
        *(
            "--prefill",
            "http://127.0.0.1:9001",
            "--decode",
            "http://127.0.0.1:9002",
            "--decode",
            "http://127.0.0.1:9003",
        ),
    ]
    assert [(each.name, each.role, each.ports["api"]) for each in workers] == [
        ("prefill", "prefill", 9001), ("decode0", "decode", 9002), ("decode1", "decode", 9003),
    ]  # fmt: skip
    assert len({each.ports["nixl"] for each in workers}) == 3
    for each in workers:
        assert config_of(each)["kv_load_failure_policy"] == "fail"
        assert config_of(each)["kv_connector_extra_config"] == {"shared_storage_path": "{folder}/kv"}


def test_a_policy_that_may_answer_wrongly_is_overruled() -> None:
    config = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_load_failure_policy": "recompute"}
    hosts = [Host(name="here", memory_bytes=1 << 40)]
    _, *workers = those(Inventory(hosts=hosts), engine_args={"kv_transfer_config": config})
    assert {config_of(each)["kv_load_failure_policy"] for each in workers} == {"fail"}
    assert {config_of(each)["kv_connector"] for each in workers} == {"NixlConnector"}


def test_under_slurm_hosts_are_placeholders_and_workers_go_round() -> None:
    hosts = [Host(name=name, memory_bytes=1 << 40) for name in ("a", "b")]
    router, *workers = those(Inventory(launcher="slurm", slurm=Slurm(), hosts=hosts))
    assert [each.host for each in (router, *workers)] == ["a", "a", "b", "a"]
    assert router.argv[2] == "{address:a}"
    assert "http://{address:b}:9002" in router.argv
    assert workers[1].env["VLLM_NIXL_SIDE_CHANNEL_HOST"] == "{address:b}"


def test_workers_that_share_a_node_see_their_own_gpus() -> None:
    gpus = [Gpu(index=index, kind="gb200", memory_bytes=198674743296) for index in range(4)]
    inventory = Inventory(device="cuda", hosts=[Host(name="here", memory_bytes=1 << 40, gpus=gpus)])
    _, *workers = those(inventory, "1P1D TP2->TP2")
    assert [each.env["CUDA_VISIBLE_DEVICES"] for each in workers] == ["0,1", "2,3"]
    assert {config_of(each)["kv_connector"] for each in workers} == {"NixlConnector"}


def test_vllms_router_is_in_no_image() -> None:
    with pytest.raises(PlanRefused, match="router is in no image of vLLM"):
        those(Inventory(launcher="docker", hosts=[Host(name="here", memory_bytes=1 << 40)]))


def dynamo_specs(hosts: int) -> list[ProcessSpec]:
    gpus = [Gpu(index=index, kind="gb200", memory_bytes=190 << 30) for index in range(4)]
    there = [Host(name=f"n{number}", memory_bytes=1 << 40, gpus=gpus) for number in range(hosts)]
    inventory = Inventory(launcher="slurm", device="cuda", hosts=there, slurm=Slurm())
    each = 4 // (2 // hosts)
    recipe = Recipe.model_validate(
        {"name": "tiny", "model": "tiny/none", "engine": "dynamo", "topology": f"1P1D TP{each}->TP{each}"}
    )
    engine = EngineChoice(name="dynamo", version="0.32.0", environment="/env")
    return processes_of(make_plan(recipe, inventory, engine))


def test_dynamos_processes_of_several_hosts_wait_for_their_etcd() -> None:
    *others, etcd = dynamo_specs(2)
    url = "http://{address:n0}:2379"
    assert (etcd.name, etcd.host) == ("etcd", "n0")
    assert etcd.argv == [
        *("/env/bin/etcd", "--data-dir", "{folder}/etcd", "--listen-client-urls", url),
        *("--advertise-client-urls", url, "--listen-peer-urls", "http://127.0.0.1:2380"),
    ]
    assert [spec.name for spec in others] == ["frontend", "prefill", "decode"]
    for spec in others:
        assert spec.env["ETCD_ENDPOINTS"] == url
        assert spec.argv[:6] == ["bash", "-c", WAIT_THEN, "bash", "{address:n0}", "2379"]
        assert spec.argv[6:8] == ["/env/bin/python", "-m"]


def test_dynamo_on_one_host_has_files_in_place_of_an_etcd() -> None:
    specs = dynamo_specs(1)
    assert [spec.name for spec in specs] == ["frontend", "prefill", "decode"]
    assert {spec.env["DYN_DISCOVERY_BACKEND"] for spec in specs} == {"file"}
    assert {spec.env["DYN_FILE_KV"] for spec in specs} == {"{folder}/dynamo"}
    assert [spec.ports for spec in specs] == [
        {"api": 8000}, {"nixl": 5600, "system": 9090}, {"nixl": 5616, "system": 9091},
    ]  # fmt: skip


def test_the_wait_ends_when_the_port_opens_and_arguments_stay_arguments() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
        command = ["bash", "-c", WAIT_THEN, "bash", "127.0.0.1", port, "printf", "%s|", "a b", "$(id)"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(0.5)
            listener.listen()
            assert waiting.communicate(timeout=60)[0] == "a b|$(id)|"


def test_a_failed_transfer_fails_its_request_whatever_the_recipe_says() -> None:
    inner = {"connectors": [{"kv_connector": "NixlConnector", "kv_load_failure_policy": "recompute"}, "odd"]}
    given = {
        "kv_connector": "MultiConnector",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": inner,
    }
    for config in (given, json.dumps(given)):
        found = kv_transfer(config)
        (first, odd) = found["kv_connector_extra_config"]["connectors"]
        assert (found["kv_connector"], odd) == ("MultiConnector", "odd")
        assert found["kv_load_failure_policy"] == first["kv_load_failure_policy"] == "fail"


@pytest.mark.parametrize("given", ["{", "[]", 7, ["a"]])
def test_a_transfer_that_is_no_object_is_refused(given: Any) -> None:
    with pytest.raises(RecipeError, match="kv_transfer_config"):
        kv_transfer(given)


def test_sequences_and_graphs_are_sized_for_a_rank_where_the_users_are_stated() -> None:
    gpus = [Gpu(index=index, kind="h200", memory_bytes=150 * 10**9) for index in range(4)]
    hosts = [Host(name=f"n{index}", memory_bytes=10**12, gpus=gpus) for index in range(5)]
    machines = Inventory(hosts=hosts, launcher="slurm", device="cuda", slurm=Slurm())
    given = {"name": "tiny", "model": "tiny/none", "topology": "1P2D DP4->DP8", "host": "0.0.0.0"}
    plan = make_plan(Recipe.model_validate(given), machines, ENGINE, Demand(concurrency=500))
    for spec in processes_of(plan):
        flag = "--max-num-seqs"
        limit = spec.argv[spec.argv.index(flag) + 1] if flag in spec.argv else None
        assert limit == ("32" if spec.role == "decode" else None)  # 500 users over 2 workers of 8 ranks each
