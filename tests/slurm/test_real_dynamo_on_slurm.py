"""NVIDIA Dynamo itself on a real Slurm: workers of two nodes find each other by a real etcd, which is then killed."""

import psutil
import pytest

from overspan.provision import engines
from overspan.schema.errors import EngineMissing
from overspan.store.run_folder import all_runs
from slurm.conftest import Rack, failed

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(1200)]


def test_over_two_nodes_by_etcd_which_is_named_when_it_is_killed(rack: Rack) -> None:
    try:
        rack.change_top(engine_environment=str(engines.find("dynamo").path), models={})
    except EngineMissing as missing:
        pytest.skip(f"{missing.what}: {missing.next}")
    settings = ("engine=dynamo", "topology=1P1D TP1->TP1", "port=8030", "max_model_len=512", "env.UCX_TLS=tcp,self")
    chosen = [word for setting in settings for word in ("--set", setting)]
    done = rack.run("up", "smollm2-135m", "--on", str(rack.inventory), *chosen)
    assert done.returncode == 0, done.stderr
    (run,) = all_runs()
    assert [(spec.name, spec.host) for spec in run.processes()] == [
        ("frontend", "a"),
        ("prefill", "a"),
        ("decode", "b"),
        ("etcd", "a"),
    ]
    found = {finding.rule: finding.evidence.text for finding in run.findings() if finding.evidence}
    assert found["disagg.instances"] == "registered: 1 of 1 prefill, 1 of 1 decode"
    assert "a decode worker took over" in found["disagg.transfer"]
    assert "Paris" in found["verify.known-answer"]
    (etcd,) = [each for each in rack.bed.hosts[0].processes() if each.name() == "etcd"]
    etcd.kill()
    psutil.wait_procs([etcd], timeout=30)
    last = failed(run)
    assert (last.process, last.host) == ("etcd", "a")
    assert "signal 9" in last.message
    assert last.data["lines"]
    rack.nothing_left()
