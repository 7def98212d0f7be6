"""A text of several causes: what else the logs hold says which, and nothing is surer than they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from overspan.doctor.context import RunContext
from overspan.doctor.rules import load_rules
from overspan.schema.errors import RecipeError
from overspan.schema.finding import Finding
from support.doctor import ask, failed_rules

PIN = "n1:2:4 [0] misc/ibvwrap.cc:286 NCCL WARN Call to ibv_reg_mr_iova2 failed with error Cannot allocate memory"
LAUNCH = "RuntimeError: CUDA error: unspecified launch failure"
QP = "n1:2:4 [0] misc/ibvwrap.cc:309 NCCL WARN Call to ibv_modify_qp failed with {errno}, on dev mlx5_0:1, curr state INIT, next state RTR, local GID index 3, local GID ::ffff:{a}, remote GID ::ffff:{b}"  # noqa: E501
SHAKE = "(Worker pid=3) ERROR 05-17 20:14:00 [worker.py:640] NIXL transfer failure: handshake_failed"
SITE = """\
category: site
rules:
- id: site-link
  title: The site's link is bad
  match: ['squid link (?P<here>[a-z]+) to (?P<there>[a-z]+) broke']
  cause: The link broke.
  causes:
  - {why: the ends have other names, differ: [here, there], fix: rename them}
  - {why: the octopus pulled it, seen_by: ['octopus was here'], not_with: ['octopus sleeps'], tell: look at it}
  - {why: the cable is old}
  fix: call 42
  source: the site
  cases: {match: ['squid link a to a broke'], near_miss: ['squid says yes']}
"""


def _root(text: str, context: RunContext | None = None) -> Finding:
    return ask(text, context=context)[0]


def test_one_text_of_many_causes_is_not_sure_and_lists_them_with_what_tells() -> None:
    root = _root(PIN)
    assert root.rule == "rdma-memlock" and (root.confidence or 1) <= 0.5
    assert all(word in (root.cause or "") for word in ("ulimit -l", "kho", "(3)")) or "KHO" in (root.cause or "")


@pytest.mark.parametrize("line", ["ulimit -l: unlimited", "$ ulimit -l\nunlimited", "docker run --ulimit memlock=-1 x"])
def test_evidence_against_a_cause_takes_it_away(line: str) -> None:
    said = _root(f"{line}\n{PIN}").cause or ""
    assert "locked memory in this container" not in said and "7.0" in said


def test_a_process_own_command_line_is_evidence_too() -> None:
    said = _root(PIN, RunContext(commands={"rank0": "docker run --ulimit memlock=-1 vllm serve"})).cause or ""
    assert "locked memory in this container" not in said


def test_evidence_for_a_cause_names_it_alone_and_quotes_the_line() -> None:
    root = _root(f"n1:2:2 [0] NCCL INFO Linux version 7.0.0-1019-nvidia\n{PIN}")
    assert root.confidence == 0.9 and "kho=off" in (root.fix or "") and "locked memory is not it" in (root.fix or "")
    assert "7.0.0-1019" in root.more[0].text
    assert "limit on locked memory" in (_root(f"ulimit -l 64\n{PIN}").cause or "")


@pytest.mark.parametrize(
    ("beside", "sure", "said"),
    [
        ("", 0.5, "It can be: (1)"),
        ("NVRM: Xid (PCI:0009:01:00): 13, pid=7", 0.9, "went wrong"),
        ("dmesg of that minute: no Xid", 0.9, "a kernel of the engine"),
    ],
)
def test_a_launch_failure_is_no_broken_gpu_by_itself(beside: str, sure: float, said: str) -> None:
    root = _root(f"{LAUNCH}\n{beside}")
    assert (root.confidence, said in (root.cause or "")) == (sure, True), root.cause


@pytest.mark.parametrize("errno", ["22 Invalid argument", "110 Connection timed out", "101 Network is unreachable"])
def test_two_networks_in_the_gids_of_one_line_are_the_cause(errno: str) -> None:
    root = _root(QP.format(errno=errno, a="192.168.100.1", b="192.168.200.2"))
    assert "different IPv4 networks" in (root.cause or "") and root.confidence == 0.9
    same = _root(QP.format(errno=errno, a="192.168.100.1", b="192.168.100.2"))
    assert "different IPv4 networks" not in (same.cause or "") or same.confidence == 0.5


def test_the_assertion_beside_a_failed_handshake_is_its_cause() -> None:
    assert (_root(SHAKE).confidence or 1) <= 0.5
    beside = SHAKE.replace("NIXL transfer failure: handshake_failed", "{}")
    block = beside.format("AssertionError: Local block size 16 is not divisible by remote block size 32 or vice versa.")
    assert _root(f"{SHAKE}\n{block}").rule == "kv-transfer-layout-differs"
    assert "side channel" in (
        _root(f"{SHAKE}\n{beside.format('zmq.error.Again: Resource temporarily unavailable')}").cause or ""
    )


def test_an_operators_rule_lists_its_causes(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)

    def root(text: str) -> Finding:
        return ask(text, tmp_path)[0]

    assert root("squid link a to b broke").fix == "rename them"
    assert root("squid link a to a broke\noctopus was here").cause == "the octopus pulled it."
    open_one = root("squid link a to a broke")
    assert open_one.confidence == 0.5 and "(2) the octopus pulled it [look at it]; (3) the cable is old" in (
        open_one.cause or ""
    )
    two = root("squid link a to a broke\noctopus sleeps").cause or ""
    assert "octopus" not in two and "the cable is old" in two


def test_a_wrong_pattern_of_a_cause_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE.replace("'octopus was here'", "'(octopus'"))
    with pytest.raises(RecipeError, match=r"causes.*missing \)"):
        load_rules((tmp_path,))


@pytest.mark.parametrize(
    "line",
    [
        "mlx5_core 0000:01:00.0: mlx5_pcie_event:326:(pid 311): Detected insufficient power on the PCIe slot (27W).",
        "pcieport 0000:00:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer, (Receiver ID)",
        "pcieport 0000:00:00.0: AER: Correctable error message received from 0000:00:00.0",
        "pcieport 0000:00:00.0: AER: Multiple Corrected error received: 0000:01:00.0",
    ],
)
def test_a_healthy_line_of_the_kernel_is_no_finding_and_hides_no_cause(line: str) -> None:
    assert failed_rules(f"[   10.0] {line}") == []
    assert failed_rules(f"[   10.0] {line}\n{LAUNCH}")[0] == "cuda-launch-failed"


@pytest.mark.parametrize(
    "line", ["Bus error (core dumped)", "./run.sh: line 3:    77 Bus error               vllm serve x"]
)
def test_a_bus_error_of_a_process_is_still_one(line: str) -> None:
    root = _root(line)
    assert root.rule == "native-crash" and "/dev/shm" in (root.cause or "")
