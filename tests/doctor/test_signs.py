"""Slow signs that stand in a run's documents, not in its log lines."""

from __future__ import annotations

from typing import Any

import pytest

from overspan.doctor.context import RunContext
from overspan.doctor.signs import GpuNow, MemoryNow, SignInputs, merged, signs
from overspan.schema.finding import Evidence, Finding
from overspan.schema.inventory import Fabric, Gpu, Host, Inventory, Nic
from overspan.schema.plan import Placement, Plan
from overspan.schema.process import ProcessSpec
from support import run_documents
from support.doctor import ask, ask_all, failed

GIB = 2**30


def _spark(name: str, hcas: list[str]) -> Host:
    first = Nic(interface="enp1s0f1np1", rdma_device="rocep1s0f1", twin="enP2p1s0f1np1")
    second = Nic(interface="enP2p1s0f1np1", rdma_device="roceP2p1s0f1", twin="enp1s0f1np1")
    return Host(
        name=name,
        memory_bytes=120 * GIB,
        gpus=[Gpu(index=0, kind="gb10", memory_bytes=120 * GIB, unified_memory=True)],
        nics=[first, second],
        fabric=Fabric(interface="enp1s0f1np1", address=f"10.0.0.{name[-1]}", hcas=hcas),
    )


def _pair(hcas: list[str]) -> Plan:
    hosts = [_spark(name, hcas) for name in ("spark1", "spark2")]
    places = [Placement(process=f"rank{n}", host=f"spark{n + 1}", ranks=[n], gpus=[0]) for n in (0, 1)]
    return run_documents.plan(inventory=Inventory(hosts=hosts, device="cuda"), placements=places)


BOTH = ["rocep1s0f1", "roceP2p1s0f1"]


def _of(rule: str, **documents: Any) -> Finding:
    return next(finding for finding in signs(SignInputs(**documents)) if finding.rule == rule)


def test_a_bench_whose_client_was_the_bottleneck_is_a_sign_with_its_points() -> None:
    points = [
        run_documents.point(1),
        run_documents.point(64, client_bound=True, client={"reasons": ["loop lag 210 ms"]}),
    ]
    found = _of("bench-client-bound", bench=run_documents.bench(points))
    assert (found.status, found.role, found.more) == ("failed", "sign", [])
    assert found.evidence == Evidence(text="concurrency 64: loop lag 210 ms", file="bench.json")
    assert _of("bench-client-bound", bench=run_documents.bench(points[:1])).status == "passed"
    assert _of("bench-client-bound").status == "not_evaluated"


@pytest.mark.parametrize(
    ("busy", "watt", "status"), [(96.0, 17.0, "failed"), (96.0, 71.0, "passed"), (40.0, 17.0, "passed")]
)
def test_gpus_that_are_busy_at_low_power_wait(busy: float, watt: float, status: str) -> None:
    now = [GpuNow("spark2", 0, busy, watt)]
    assert _of("gpu-busy-low-power", plan=_pair(BOTH), gpus=now).status == status
    server = {"gpu_busy_percent": {"mean": busy, "max": 100}, "gpu_power_w": {"mean": watt, "max": 99}}
    bench = run_documents.bench([run_documents.point(4, server=server)])
    assert _of("gpu-busy-low-power", plan=_pair(BOTH), bench=bench).status == status


def test_power_of_an_unknown_kind_of_gpu_is_not_judged() -> None:
    found = _of("gpu-busy-low-power", plan=run_documents.plan(), gpus=[GpuNow("laptop", 0, 99.0, 5.0)])
    assert found.status == "not_evaluated" and found.cause


def test_one_hca_of_a_cables_two_is_a_sign_and_the_environment_of_the_process_counts() -> None:
    found = _of("one-hca-of-two", plan=_pair(BOTH[:1]))
    assert found.status == "failed" and found.evidence is not None
    assert found.evidence.host == "spark1" and "roceP2p1s0f1" in found.evidence.text
    assert [evidence.host for evidence in found.more] == ["spark2"]
    assert _of("one-hca-of-two", plan=_pair(BOTH)).status == "passed"
    pinned = [ProcessSpec(name="rank0", host="spark1", argv=["vllm"], env={"NCCL_IB_HCA": "=rocep1s0f1:1"})]
    assert _of("one-hca-of-two", plan=_pair(BOTH), processes=pinned).status == "failed"
    assert _of("one-hca-of-two", plan=run_documents.plan()).status == "not_evaluated"


def test_a_full_page_cache_counts_where_memory_is_shared() -> None:
    full, empty = MemoryNow("spark1", 120 * GIB, 40 * GIB), MemoryNow("spark1", 120 * GIB, 4 * GIB)
    assert _of("page-cache-holds-memory", plan=_pair(BOTH), memory=[full]).status == "failed"
    assert _of("page-cache-holds-memory", plan=_pair(BOTH), memory=[empty]).status == "passed"
    assert _of("page-cache-holds-memory", plan=_pair(BOTH)).status == "not_evaluated"
    assert _of("page-cache-holds-memory", plan=run_documents.plan(), memory=[full]).status == "not_evaluated"


def test_sockets_that_verify_saw_are_a_sign() -> None:
    evidence = Evidence(text="Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0", line=7)
    seen = Finding(rule="nccl.transport", status="failed", evidence=evidence, severity="warning", role="sign")
    found = _of("nccl-on-sockets-slow", verified=[seen])
    assert (found.rule, found.status, found.evidence) == ("nccl-on-sockets-slow", "failed", evidence)
    assert _of("nccl-on-sockets-slow").status == "not_evaluated"


def test_documents_fill_what_logs_leave_open_and_never_hide_a_failure() -> None:
    logged = ask("NCCL WARN Call to ibv_modify_qp failed with 61 No data available")
    bench = run_documents.bench([run_documents.point(64, client_bound=True)])
    whole = merged(logged, signs(SignInputs(bench=bench, plan=_pair(BOTH[:1]))))
    assert failed(whole)[0] == "rdma-gid-mismatch"
    assert {"bench-client-bound", "one-hca-of-two"} <= set(failed(whole))
    assert len({finding.rule for finding in whole}) == len(whole)
    power = next(finding for finding in whole if finding.rule == "gpu-busy-low-power")
    assert power.status == "not_evaluated" and power.cause
    one = ask("NCCL INFO NET/IB : Using [0]rocep1s0f1:1/RoCE [RO]; OOB enp1s0f1np1:169.254.1.2<0>")
    assert "one-hca-of-two" in failed(merged(one, signs(SignInputs(plan=_pair(BOTH)))))


def test_expert_parallelism_asked_for_on_the_command_line_and_off_in_the_log() -> None:
    logs = {"rank0": "INFO 11-22 10:00:00 [core.py:1] config: enable_expert_parallel=False"}
    asked = RunContext(commands={"rank0": "vllm serve x --enable-expert-parallel"})
    assert failed(ask_all(logs, asked)) == ["expert-parallel-inactive"]
    assert failed(ask_all(logs, RunContext(commands={"rank0": "vllm serve x"}))) == []
    assert failed(ask_all({"rank1": logs["rank0"]}, asked)) == []
