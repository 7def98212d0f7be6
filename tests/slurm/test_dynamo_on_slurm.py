"""Dynamo's processes on a real Slurm, with stand-ins: etcd first, readiness by what the frontend knows, etcd killed."""

import sys
from pathlib import Path

import psutil
import pytest

from overspan.store.run_folder import all_runs
from slurm.conftest import Rack, failed
from support.fake_dynamo import add_dynamo

pytestmark = pytest.mark.real


def test_ready_when_all_are_registered_and_named_when_etcd_is_killed(rack: Rack) -> None:
    add_dynamo(rack.shared / "engine", str(Path(sys.base_prefix) / "bin" / "python3"))
    done = rack.up("--set", "engine=dynamo", "--set", "topology=1P1D TP1->TP1")
    assert done.returncode == 0, done.stderr
    (run,) = all_runs()
    assert [spec.name for spec in run.processes()] == ["frontend", "prefill", "decode", "etcd"]
    found = {finding.rule: finding.evidence.text for finding in run.findings() if finding.evidence}
    assert found["disagg.instances"] == "registered: 1 of 1 prefill, 1 of 1 decode"
    assert found["disagg.transfer"] == "a decode worker took over 128 tokens"
    (etcd,) = [
        each
        for each in rack.bed.hosts[0].processes()
        if "--listen-client-urls" in each.cmdline() and each.name() == "etcd"
    ]
    etcd.kill()
    psutil.wait_procs([etcd], timeout=30)
    last = failed(run)
    assert (last.process, last.host) == ("etcd", "a")
    assert "signal 9" in last.message
    assert any("etcd serves" in line for line in last.data["lines"])
    rack.nothing_left()
