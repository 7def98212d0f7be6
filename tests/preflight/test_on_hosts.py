"""Preflight over ssh on two real hosts: healthy, then each thing broken on purpose."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from overspan.engines import vllm
from overspan.planner.placement import place, topology_of
from overspan.preflight import preflight, unreachable
from overspan.schema.finding import Finding
from overspan.schema.layout import parse_layout
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.recipe import Recipe
from overspan.transport.reach import reach
from testbed import image
from testbed.bed import Bed

pytestmark = pytest.mark.real

FOLDER = "/srv/models/tiny"


@pytest.fixture
def hosts(bed: Bed) -> Bed:
    """Two hosts with the same model files."""
    for host in bed.hosts:
        host.outside(FOLDER).mkdir(parents=True)
        host.outside(f"{FOLDER}/config.json").write_text("{}")
        host.outside(f"{FOLDER}/model.safetensors").write_bytes(b"weights" * 300)
    return bed


def check(bed: Bed, *, interface: str = "eth0", options: tuple[str, ...] = ()) -> list[Finding]:
    """Preflight of two ranks. `interface` is what the inventory says of the second host."""
    recipe = Recipe(name="tiny", model=FOLDER, image=image.NAME, layout=parse_layout("pp2"))
    inventory = bed.inventory()
    first, second = inventory.hosts
    assert second.fabric is not None
    second = second.with_(fabric=second.fabric.with_(interface=interface))
    inventory = inventory.with_(hosts=[first, second])
    plan = Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=EngineChoice(name="vllm", version="0.32.0", image=image.NAME),
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=place(topology_of(recipe), inventory).placements,
        overspan_version="0",
    )
    specs = [spec.with_(docker_options=list(options)) for spec in vllm.ENGINE.processes(plan)]
    return preflight(plan, reach, specs)


def failures(bed: Bed) -> list[tuple[str, str]]:
    failed = [one for one in check(bed) if one.status == "failed"]
    return [(one.rule, one.evidence.host or "") for one in failed if one.evidence]


def test_healthy_hosts(hosts: Bed) -> None:
    findings = check(hosts)
    assert [(one.rule, one.cause) for one in findings if one.status == "failed"] == []
    passed = {one.rule.removeprefix("preflight.") for one in findings if one.status == "passed"}
    assert passed >= {
        "ssh",
        "host_key",
        "docker",
        "interface",
        "reach",
        "mtu",
        "port",
        "disk",
        "subnet",
        "image",
        "model",
        "weights",
        "clock",
        "host_ip",
        "native_version",
    }


def test_mtu_smaller_on_the_second_host(hosts: Bed) -> None:
    with hosts.hosts[1].mtu(1200):
        assert ("preflight.mtu", "node1") in failures(hosts)


def test_wrong_interface_name(hosts: Bed) -> None:
    wrong = [one for one in check(hosts, interface="enp1s0f0np0") if one.status == "failed"]
    assert {(one.rule, one.evidence and one.evidence.host) for one in wrong} == {("preflight.interface", "node2")}
    assert (
        f"node2 has no interface enp1s0f0np0 (from fabric.interface); it has eth0 ({hosts.hosts[1].address}/24, up)"
        in [one.cause for one in wrong]
    )


def test_a_limit_that_the_engine_refuses(hosts: Bed) -> None:
    """The bed's engines may not raise the hard limit; containers are asked with the plan's own options."""
    findings = [one for one in check(hosts, options=("--ulimit", "memlock=-1")) if one.rule == "preflight.memlock"]
    assert [one.status for one in findings] == ["failed", "failed"]
    assert "does not let a container have the limit" in str(findings[0].cause)
    assert findings[0].evidence and "operation not permitted" in findings[0].evidence.text
    assert [host.docker("ps", "--all", "--quiet") for host in hosts.hosts] == ["", ""]


def test_master_port_taken_on_the_head(hosts: Bed) -> None:
    with hosts.hosts[0].port_taken(29501) as pid:
        (finding,) = [one for one in check(hosts) if one.status == "failed"]
    assert finding.rule == "preflight.port" and f"(pid {pid})" in str(finding.cause)


def test_weights_differ(hosts: Bed) -> None:
    check(hosts)  # what is known of the files by now must not hide the change
    with hosts.hosts[1].altered(f"{FOLDER}/model.safetensors"):
        (finding,) = [one for one in check(hosts) if one.status == "failed"]
    assert finding.rule == "preflight.model" and "differ, compared with node1: model.safetensors" in str(finding.cause)


def test_image_differs(hosts: Bed) -> None:
    hosts.hosts[1].docker("import", "--change", "LABEL other=1", "-", image.NAME, stdin=b"\0" * 10240)
    assert failures(hosts) == [("preflight.image", "node2")]


@pytest.mark.parametrize(("fault", "rule"), [("cut", "preflight.ssh"), ("new_host_key", "preflight.host_key")])
def test_a_host_that_does_not_answer(hosts: Bed, fault: str, rule: str) -> None:
    broken: AbstractContextManager[object] = getattr(hosts.hosts[1], fault)()
    with broken:
        findings = check(hosts)
    of_second = [one for one in findings if one.evidence and one.evidence.host == "node2"]
    assert [one.rule for one in of_second if one.status == "failed"] == [rule] and unreachable(findings)
    assert {one.status for one in of_second if one.rule != rule} == {"not_evaluated"} and len(of_second) > 8
