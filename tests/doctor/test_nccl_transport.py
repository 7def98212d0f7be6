"""Lines that NCCL really wrote; each case says where it was published."""

from __future__ import annotations

import pytest

from overspan.doctor.nccl_transport import transport_of
from overspan.schema.finding import Finding

# NVIDIA/nccl-tests issue 185 (H100, RoCE); the channel line has the shape that NCCL 2.19 and newer write.
ROCE = """\
dgxh100-4:460770:460770 [0] NCCL INFO Bootstrap : Using enp220s0np0:11.1.128.136<0>
dgxh100-4:460770:460842 [0] NCCL INFO NET/IB : Using [0]mlx5_10:1/RoCE [1]mlx5_11:1/RoCE [RO]
dgxh100-4:460770:460842 [0] NCCL INFO Using network IB
dgxh100-4:460770:460842 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/IB/0/GDRDMA
"""
# NVIDIA/nccl issue 1232 (two nodes, with an MPI prefix).
SOCKET = """\
[0] node0:13571:13571 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[0] [send] via NET/Socket/0
[1] node2:22555:22555 [0] NCCL INFO Channel 00/0 : 2[1] -> 1[0] [receive] via NET/Socket/0
[1] node2:22555:22555 [0] NCCL INFO Connected all rings
[2] node0:13572:13572 [1] NCCL INFO Channel 00 : 2[1] -> 0[0] via SHM/direct/direct
"""
# NVIDIA/nccl-tests issue 179.
NO_DEVICE = "manolinux1:12260:12268 [0] NCCL INFO NET/IB : No device found.\n"
# NVIDIA/nccl issue 1053.
DISABLED = "axa:3048391:3048566 [0] NCCL INFO NCCL_IB_DISABLE set by environment to 1.\n"
# vllm-project/vllm reports of 2024 and 2025.
NO_VERBS = "ada6000-02:165062:165062 [0] NCCL INFO Failed to open libibverbs.so[.1]\n"
# NVIDIA/nccl-tests issue 179: what every process says, with all ranks on one host too.
AT_HAND = "manolinux:3319:3329 [1] NCCL INFO Using network Socket\n"
# NVIDIA/nccl issue 952.
ONE_HOST = "<cluster_name>:919:1150 [0] NCCL INFO Channel 01/0 : 8[0] -> 15[7] via P2P/IPC/read\n"
# This machine's own test bed: vLLM 0.32 on the CPU, PP2 over two hosts.
GLOO = """\
(Worker pid=29) INFO 11-22 17:32:36 [multiproc_executor.py:153] DP group leader: node_rank=0
(Worker pid=29) INFO 11-22 17:32:38 [parallel_state.py:1906] world_size=2 rank=0 local_rank=0 \
distributed_init_method=tcp://10.10.11.1:29501 backend=gloo
"""


def told(log: str) -> Finding:
    return transport_of({"api.log": log.splitlines()})


def test_without_gpus_it_is_gloo_over_sockets() -> None:
    finding = told(GLOO)
    assert (finding.status, finding.severity) == ("passed", "info")
    assert "gloo, by sockets, and met at 10.10.11.1:29501" in str(finding.cause)
    assert finding.evidence and (finding.evidence.file, finding.evidence.line) == ("api.log", 2)
    assert told(GLOO + ROCE).cause == "NCCL sends over IB"


def test_the_rank_that_has_sockets_is_named() -> None:
    finding = transport_of({"api.log": ROCE.splitlines(), "worker1.log": SOCKET.splitlines()})
    assert finding.status == "failed"
    assert finding.evidence and (finding.evidence.file, finding.evidence.line) == ("worker1.log", 1)


def test_rdma_is_good() -> None:
    finding = told(ROCE)
    assert (finding.status, finding.cause) == ("passed", "NCCL sends over IB")
    assert finding.evidence and finding.evidence.line == 4 and "GDRDMA" in finding.evidence.text


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        (NO_DEVICE, "found no RDMA device"),
        (DISABLED, "NCCL_IB_DISABLE=1"),
        (NO_VERBS, "lacks libibverbs"),
        ("", "the log does not say why"),
    ],
)
def test_sockets_are_a_warning_with_the_reason(reason: str, why: str) -> None:
    finding = told(reason + SOCKET)
    assert (finding.status, finding.severity) == ("failed", "warning")
    assert "10 to 20 times slower" in str(finding.cause) and why in str(finding.cause)
    assert finding.fix and finding.evidence and "via NET/Socket/0" in finding.evidence.text
    assert [one.text for one in finding.more] == [line.strip() for line in reason.splitlines()]


def test_one_rank_over_sockets_is_told_though_others_have_rdma() -> None:
    finding = told(ROCE + SOCKET)
    assert finding.status == "failed" and "others over IB" in str(finding.cause)


@pytest.mark.parametrize("log", ["", ONE_HOST, AT_HAND + ONE_HOST, "INFO 11-22 vllm says hello\n", NO_DEVICE])
def test_nothing_seen_is_not_evaluated(log: str) -> None:
    finding = told(log)
    assert finding.status == "not_evaluated" and finding.cause


def test_a_line_of_a_megabyte() -> None:
    assert transport_of({"x": [" via NET/" + "a" * 2**20 + " via NET/"] * 3}).status == "passed"
    assert transport_of({"x": ["NCCL " * 2**18]}).status == "not_evaluated"
