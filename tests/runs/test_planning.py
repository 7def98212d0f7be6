"""Which engine a plan takes on a machine with GPUs and no containers: the user's own vLLM."""

from pathlib import Path

import pytest
import yaml

from overspan.provision import engines, locked
from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.errors import EngineMissing, PlanRefused


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    gpu = {"index": 0, "kind": "h100", "memory_bytes": 80_000_000_000}
    host = {"name": "localhost", "memory_bytes": 64_000_000_000, "cores": 16, "gpus": [gpu]}
    file = tmp_path / "gpu.yaml"
    file.write_text(yaml.safe_dump({"name": "gpu", "device": "cuda", "hosts": [host]}))
    return file


def test_the_vllm_on_the_path(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "env"
    (environment / "lib/python3.12/site-packages/vllm-0.26.0.dist-info").mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin" / "vllm").write_text("#!/bin/sh\n")
    (environment / "bin" / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(environment / "bin"))
    plan = plan_of(Wanted("smollm2-135m", str(machine)), to_start=True)
    (spec,) = processes_of(plan)
    assert (plan.engine.version, spec.argv[0]) == ("0.26.0", f"{environment}/bin/vllm")
    assert "--enforce-eager" not in spec.argv
    assert "VLLM_CPU_KVCACHE_SPACE" not in spec.env


def test_no_vllm_is_one_clear_error(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EngineMissing, match="no vLLM on the PATH"):
        plan_of(Wanted("smollm2-135m", str(machine)), to_start=True)
    assert plan_of(Wanted("smollm2-135m", str(machine)), to_start=False).engine.environment is None


def test_each_engine_of_a_recipe_has_a_lock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def missing(kind: str) -> None:
        asked.append(kind)
        raise EngineMissing(kind)

    monkeypatch.setattr(engines, "find", missing)
    for engine in ("vllm", "vllm-ray", "dynamo"):
        settings = (f"engine={engine}", *(["topology=1P1D TP1->TP1"] if engine == "dynamo" else []))
        plan_of(Wanted("smollm2-135m", "laptop", settings), to_start=False)
    assert asked == ["cpu", "cpu-ray", "dynamo"]
    assert set(asked) <= set(locked.known())


def test_dynamo_without_a_topology_is_refused_with_one() -> None:
    plan = plan_of(Wanted("smollm2-135m", "laptop", ("engine=dynamo",)), to_start=False)
    with pytest.raises(PlanRefused, match="the recipe has no topology") as refusal:
        processes_of(plan)
    assert refusal.value.next == "--set 'topology=1P1D TP1->TP1', or --set engine=vllm"


@pytest.mark.parametrize(
    ("on", "settings", "said"),
    [
        ("laptop", (), "only processes of this machine; no key is needed"),
        (
            "two-sparks",
            ("host=0.0.0.0",),
            "every machine that can reach this machine, on any network; no key is needed",
        ),
        (
            "two-sparks",
            ("host=10.10.10.1", "api_key=true"),
            "every machine that can reach 10.10.10.1 of this machine; clients need a key",
        ),
        (
            "gb200-nvl72",
            (),
            "every machine that can reach gb200-01, on the network between the hosts; no key is needed",
        ),
    ],
)
def test_the_plan_says_who_can_use_the_endpoint(on: str, settings: tuple[str, ...], said: str) -> None:
    image = () if on == "laptop" else ("image=vllm/vllm-openai:v0.32.0",)
    notes = plan_of(Wanted("smollm2-135m", on, (*image, *settings)), to_start=False).notes
    assert any(note.startswith(f"who can use the endpoint: {said}") for note in notes), notes


@pytest.mark.parametrize(("engine", "why"), [("vllm", "vLLM's router hands no key on"), ("dynamo", "asks for none")])
def test_a_key_that_nobody_would_ask_for_is_refused(engine: str, why: str) -> None:
    settings = (f"engine={engine}", "topology=1P1D TP1->TP1", "host=0.0.0.0", "api_key=true")
    with pytest.raises(PlanRefused, match=f"api_key: .*{why}"):
        plan_of(Wanted("smollm2-135m", "laptop", settings), to_start=False)


def test_a_topology_of_one_role_has_no_router_to_install_and_none_that_loses_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path))  # no router is installed
    settings = ("topology=TP2", "host=0.0.0.0", "api_key=true")
    plan = plan_of(Wanted("llama-3.3-70b", "gb200-nvl72", settings), to_start=False)
    assert [spec.name for spec in processes_of(plan)] == ["api"]
    assert plan.engine.router is None


def test_what_a_recipe_says_of_its_only_role_is_kept() -> None:
    settings = ("topology=TP2", 'roles={"aggregated": {"engine_args": {"max_num_seqs": 7}, "env": {"FOO": "bar"}}}')
    [api] = processes_of(plan_of(Wanted("llama-3.3-70b", "gb200-nvl72", settings), to_start=False))
    assert api.argv[api.argv.index("--max-num-seqs") + 1] == "7"
    assert api.env["FOO"] == "bar"
