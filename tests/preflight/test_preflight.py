"""Each check against scripted hosts: what is healthy passes, and what does not answer is told, never skipped."""

from __future__ import annotations

import pytest

from overspan.catalog import inventories, recipes
from overspan.engines import vllm
from overspan.preflight import HOST_KEY, SSH, preflight, unreachable
from overspan.preflight.book import CHECKS, GROUP_CHECKS
from overspan.preflight.facts import NOTHING
from overspan.schema.errors import HostKeyRejected
from overspan.schema.inventory import Host
from overspan.schema.plan import EngineChoice
from overspan.transport.base import Completed
from overspan.transport.fake import Fake, Reply
from support.two_sparks import (
    Two,
    healthy,
    host_of,
    plan_on,
)


def test_healthy_hosts_pass_every_check_with_its_command(two: Two) -> None:
    findings = two.check()
    told = [(one.rule, one.status) for one in findings if one.status != "passed"]
    assert told == [("preflight.model", "not_evaluated")], "a model of the hub has no folder yet"
    findings = [one for one in findings if one.rule != "preflight.model"]
    assert {rule.rule for rule in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS)} - {one.rule for one in findings} == {
        *("preflight.engine_version", "preflight.model", "preflight.weights", "preflight.cache", "preflight.hostname"),
        *("preflight.p2p", "preflight.imex", "preflight.peermem", "preflight.ray_memory", "preflight.all_reduce"),
        *("preflight.removeipc", "preflight.ucx", "preflight.engine"),
    }
    assert all(one.evidence and one.evidence.host for one in findings)
    untold = {rule.rule for rule in (*CHECKS, *GROUP_CHECKS) if rule.cost == NOTHING} | {"preflight.hub"}
    assert all(one.evidence and one.evidence.command for one in findings if one.rule not in untold)
    of_reach = [host_of(one) for one in findings if one.rule == "preflight.reach"]
    assert of_reach == ["spark1"], "only the head's way to the others matters"


def test_the_ports_of_each_host_are_asked_there(two: Two) -> None:
    told = [(host_of(one), one.evidence.text) for one in two.check() if one.rule == "preflight.port" and one.evidence]
    assert told == [("spark1", "api port 8888 is free"), ("spark1", "master port 29501 is free")]


def test_dp_rpc_port_over_hosts(two: Two) -> None:
    recipe = two.plan.recipe.with_(layout=recipes.find("smollm2-135m").layout.with_(dp=2))
    two.plan = plan_on(two.plan.inventory, recipe)
    texts = [one.evidence.text for one in two.check() if one.rule == "preflight.port" and one.evidence]
    assert "dp_rpc port 13345 is free" in texts


def test_unreachable_host_is_one_failure_and_the_rest_is_not_skipped(two: Two) -> None:
    two.replies["spark2"] = {
        "gone": Reply(argv=["**"], unreachable="ssh: connect to host 10.10.10.2 port 22: timed out")
    }
    findings = two.check()
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.ssh", "spark2") and unreachable(findings)
    assert finding.evidence and finding.evidence.text.endswith("timed out")
    rest = [one for one in findings if host_of(one) == "spark2" and one.rule != "preflight.ssh"]
    assert {one.status for one in rest} == {"not_evaluated"}
    assert {one.rule for one in rest} >= {"preflight.memory", "preflight.image", "preflight.interface", "preflight.mtu"}
    assert all("spark2 is unreachable" in str(one.cause) for one in rest)


def test_a_host_that_falls_silent_in_the_middle(two: Two) -> None:
    two.change("spark2", "memory", unreachable="Connection reset by peer")
    finding = two.only_failure()
    assert finding.rule == "preflight.ssh"


def test_changed_host_key(two: Two) -> None:
    class Imposter(Fake):
        def run(self, *_: object, **__: object) -> Completed:
            raise HostKeyRejected("the host key of spark2 is not the one that was known", next="ssh-keygen -R spark2")

    def reach(host: Host) -> Fake:
        return Imposter("spark2", []) if host.name == "spark2" else two.reach(host)

    findings = two.check(reach)
    (finding,) = [one for one in findings if one.status == "failed"]
    assert (finding.rule, finding.fix) == ("preflight.host_key", "ssh-keygen -R spark2")
    assert unreachable(findings)


def test_a_command_that_is_missing_is_not_evaluated(two: Two) -> None:
    two.change("spark1", "ss", missing="ss: not found")
    (finding, _) = [one for one in two.check() if one.status != "passed"]
    assert (finding.rule, finding.status) == ("preflight.port", "not_evaluated")
    assert finding.cause == "ss is not installed on spark1" and finding.fix == "sudo apt-get install iproute2"


def test_this_machine_alone_is_asked_for_ports_memory_disk_and_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineChoice(name="vllm", version="0.32.0", environment="/opt/engine")
    monkeypatch.setattr(vllm.Vllm, "choose", lambda *_, **__: engine)
    plan = plan_on(inventories.find("laptop"), recipes.find("smollm2-135m"))
    findings = preflight(plan, lambda host: Fake(host.name, list(healthy(1).values())), vllm.ENGINE.processes(plan))
    assert [(one.rule, one.status) for one in findings] == [
        ("preflight.port", "passed"),
        ("preflight.memory", "passed"),
        ("preflight.disk", "passed"),
        ("preflight.engine", "passed"),
    ]


def test_a_recipe_value_never_becomes_a_command(two: Two) -> None:
    hostile = "a'; touch /tmp/x #"
    two.plan = two.plan.with_(engine=two.plan.engine.with_(image=hostile))
    two.check()
    asked = [call.argv for fake in two.hosts.values() for call in fake.calls if call.argv[:2] == ["docker", "image"]]
    assert asked and all(argv[-2:] == ["--", hostile] for argv in asked)
