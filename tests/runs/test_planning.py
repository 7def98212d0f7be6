"""Which engine a plan takes on a machine with GPUs and no containers: the user's own vLLM."""

from pathlib import Path

import pytest
import yaml

from overspan.runs.planning import Wanted, plan_of, processes_of
from overspan.schema.errors import EngineMissing


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
