"""Scripted hosts whose interfaces, RDMA devices or packets are not as the plan has them: one finding each."""

from __future__ import annotations

import json

from overspan.preflight import blocking
from overspan.transport.fake import Reply
from support.sparks import rdma_sysfs
from support.two_sparks import (
    CABLE,
    HCA,
    LOST,
    PINGED,
    Two,
    host_of,
    plan_on,
)


def test_wrong_interface_name_lists_those_that_exist(two: Two) -> None:
    first, second = two.plan.inventory.hosts
    assert second.fabric is not None
    wrong = second.with_(fabric=second.fabric.with_(interface="eth0"))
    two.plan = plan_on(two.plan.inventory.with_(hosts=[first, wrong]), two.plan.recipe)
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.interface", "spark2")
    assert "no interface eth0" in str(finding.cause) and f"{CABLE} (10.10.10.2/24, up)" in str(finding.cause)
    assert "docker0" not in str(finding.cause)
    assert (
        finding.fix == f"in the inventory, host spark2: set fabric.interface to {CABLE}, which has the plan's address"
    )


def test_an_interface_that_only_the_environment_names_wrongly(two: Two) -> None:
    two.plan = plan_on(two.plan.inventory.with_(env={"GLOO_SOCKET_IFNAME": "ib0"}), two.plan.recipe)
    wrong = [one for one in two.check() if one.status == "failed"]
    assert [host_of(one) for one in wrong] == ["spark1", "spark2"]
    assert all("from GLOO_SOCKET_IFNAME" in str(one.cause) for one in wrong)


def test_interface_down_and_address_gone(two: Two) -> None:
    rows = json.loads(two.replies["spark2"]["ip"].stdout)
    row = next(row for row in rows if row["ifname"] == CABLE)
    row["operstate"], row["flags"] = "DOWN", ["NO-CARRIER"]
    two.change("spark2", "ip", stdout=json.dumps(rows))
    assert f"interface {CABLE} of spark2 is down" in str(two.only_failure().cause)


def test_wrong_hca_name(two: Two) -> None:
    two.change("spark1", "rdma", stdout=rdma_sysfs([CABLE]).replace(HCA, "mlx5_0"))
    finding = two.only_failure()
    assert finding.rule == "preflight.hca" and "without a word" in str(finding.cause)


def test_hosts_in_two_subnets(two: Two) -> None:
    two.change("spark2", "ip", stdout=two.replies["spark2"]["ip"].stdout.replace('"prefixlen": 24', '"prefixlen": 30'))
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.subnet", "spark2")
    assert "10.10.10.0/30" in str(finding.cause) and "spark1 in 10.10.10.0/24" in str(finding.cause)


def test_a_host_that_the_head_does_not_reach(two: Two) -> None:
    two.change("spark1", "small", stdout=LOST, code=1)
    finding = two.only_failure()
    assert finding.rule == "preflight.reach" and finding.fix == "ip route get 10.10.10.2"
    assert finding.evidence and finding.evidence.command and finding.evidence.command[-1] == "10.10.10.2"


def test_mtu_smaller_on_the_other_end(two: Two) -> None:
    two.change("spark1", "large", stdout=LOST, code=1)
    finding = two.only_failure()
    assert finding.rule == "preflight.mtu" and "9000 bytes" in str(finding.cause) and "spark2" in str(finding.cause)
    assert finding.fix == f"ssh -- 10.10.10.2 'sudo ip link set {CABLE} mtu 9000'"


def test_small_mtu_under_rdma_is_a_warning(two: Two) -> None:
    for host in ("spark1", "spark2"):
        two.change(host, "ip", stdout=two.replies[host]["ip"].stdout.replace('"mtu": 9000', '"mtu": 1500'))
        two.replies[host]["large"] = Reply(argv=["ping", *["*"] * 11, "1472", "*"], stdout=PINGED)
    findings = two.check()
    assert [(one.rule, one.severity) for one in findings if one.status == "failed"] == [
        ("preflight.mtu", "warning")
    ] * 2
    assert list(blocking(findings)) == []
