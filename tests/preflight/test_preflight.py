"""Each check against scripted hosts: what is healthy passes, and each thing broken on purpose is one finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from overspan.catalog import inventories, recipes
from overspan.checks.preflight import failed, preflight, unreachable
from overspan.checks.preflight.book import CHECKS, GROUP_CHECKS, HOST_KEY, SSH
from overspan.engines import vllm
from overspan.planner.placement import place
from overspan.schema.errors import HostKeyRejected
from overspan.schema.finding import Finding
from overspan.schema.inventory import Host, Inventory
from overspan.schema.plan import Endpoint, EngineChoice, Plan
from overspan.schema.recipe import Recipe
from overspan.transport.base import Completed
from overspan.transport.fake import Fake, Reply
from support.sparks import ip_addr, rdma_sysfs

CAPTURES = Path(__file__).parents[1] / "inventory"
CABLE, HCA = "enp1s0f1np1", "rocep1s0f1"
IMAGE_A, IMAGE_B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def captured(fact: str, case: str) -> str:
    return (CAPTURES / fact / f"{case}.txt").read_text()


def meminfo(free_gib: float, cached_gib: float = 2.0, available_gib: float | None = None) -> str:
    amounts = {"MemTotal": 121.6, "MemFree": free_gib, "Cached": cached_gib}
    amounts["MemAvailable"] = free_gib + cached_gib if available_gib is None else available_gib
    return "".join(f"{name}: {round(gib * 2**20)} kB\n" for name, gib in amounts.items())


PINGED = "3 packets transmitted, 3 received, 0% packet loss, time 404ms\n"
LOST = "3 packets transmitted, 0 received, 100% packet loss, time 2208ms\n"
UNLIMITED = "Max locked memory         unlimited            unlimited            bytes     \n"
LIMITED = "Max locked memory         8388608              8388608              bytes     \n"


def healthy(number: int) -> dict[str, Reply]:
    """Everything that a Spark in order answers, by a name that a test can replace."""
    addresses = {CABLE: [f"10.10.10.{number}/24"], "enP7s7": [f"192.168.1.{number}/24"]}
    return {
        "true": Reply(argv=["true"]),
        "docker": Reply(argv=["docker", "info", "**"], stdout=captured("docker_info", "nvidia")),
        "gpu": Reply(argv=["nvidia-smi", "--query-gpu=index,name*", "**"], stdout=captured("nvidia_smi", "gb10")),
        "holders": Reply(argv=["nvidia-smi", "--query-compute*", "**"], stdout=captured("gpu_processes", "gb10")),
        "ip": Reply(argv=["ip", "-j", "addr"], stdout=ip_addr(addresses, [CABLE], {CABLE: 9000})),
        "rdma": Reply(argv=["find", "-L", "/sys/class/infiniband", "**"], stdout=rdma_sysfs([CABLE])),
        "small": Reply(argv=["ping", *["*"] * 11, "56", "*"], stdout=PINGED),
        "large": Reply(argv=["ping", *["*"] * 11, "8972", "*"], stdout=PINGED),
        "limits": Reply(argv=["docker", "run", "--rm", "**"], stdout=UNLIMITED),
        "ss": Reply(argv=["ss", "-Hltnp"], stdout='LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'),
        "memory": Reply(argv=["cat", "/proc/meminfo"], stdout=meminfo(118.0)),
        "model": Reply(argv=["ls", "-d", "**"], stdout="/models\n"),
        "disk": Reply(argv=["df", "**"], stdout=captured("df", "h100_vm")),
        "image": Reply(argv=["docker", "image", "inspect", "**"], stdout=f"{IMAGE_A} arm64\n"),
    }


def sparks() -> Inventory:
    """The inventory that ships, with the cable, the RDMA device and a model cache that detection finds."""
    shipped = inventories.find("two-sparks")
    hosts = []
    for host in shipped.hosts:
        assert host.fabric is not None
        fabric = host.fabric.model_copy(update={"interface": CABLE, "hcas": [HCA]})
        nic = host.nics[0].model_copy(update={"interface": CABLE, "rdma_device": HCA})
        hosts.append(host.model_copy(update={"fabric": fabric, "nics": [nic], "model_cache": "/models"}))
    return shipped.model_copy(update={"hosts": hosts})


def plan_on(inventory: Inventory, recipe: Recipe) -> Plan:
    return Plan(
        recipe=recipe,
        inventory=inventory,
        layout=recipe.layout,
        engine=EngineChoice(name=recipe.engine, version="0.32.0", image=recipe.image),
        endpoint=Endpoint(host=recipe.host, port=recipe.port, model=recipe.public_name),
        placements=place(recipe.layout, inventory),
        overspan_version="0",
    )


class Two:
    """Two scripted Sparks. `change` breaks something on one of them; `check` runs preflight."""

    def __init__(self) -> None:
        self.plan = plan_on(sparks(), recipes.find("minimax-m2.5-nvfp4"))
        self.replies = {"spark1": healthy(1), "spark2": healthy(2)}
        self.hosts: dict[str, Fake] = {}

    def change(self, host: str, name: str, **changes: object) -> None:
        self.replies[host][name] = self.replies[host][name].model_copy(update=changes)

    def reach(self, host: Host) -> Fake:
        self.hosts[host.name] = Fake(host.name, list(self.replies[host.name].values()))
        return self.hosts[host.name]

    def check(self, reach: Callable[[Host], Fake] | None = None) -> list[Finding]:
        return preflight(self.plan, reach or self.reach, vllm.processes(self.plan))

    def only_failure(self) -> Finding:
        found = [finding for finding in self.check() if finding.status == "failed"]
        assert len(found) == 1, [(one.rule, one.cause) for one in found]
        return found[0]


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    monkeypatch.setenv("OVERSPAN_STATE", str(tmp_path))
    return Two()


def host_of(finding: Finding) -> str | None:
    assert finding.evidence is not None
    return finding.evidence.host


def test_healthy_hosts_pass_every_check_with_its_command(two: Two) -> None:
    findings = two.check()
    told = [(one.rule, one.status) for one in findings if one.status != "passed"]
    assert told == [("preflight.model", "not_evaluated")], "a model of the hub has no folder yet"
    findings = [one for one in findings if one.rule != "preflight.model"]
    assert {one.rule for one in findings} == {
        rule.rule
        for rule in (SSH, HOST_KEY, *CHECKS, *GROUP_CHECKS)
        if rule.rule not in ("preflight.engine_version", "preflight.model")
    }
    assert all(one.evidence and one.evidence.command and one.evidence.host for one in findings)
    of_reach = [host_of(one) for one in findings if one.rule == "preflight.reach"]
    assert of_reach == ["spark1"], "only the head's way to the others matters"


def test_the_ports_of_each_host_are_asked_there(two: Two) -> None:
    told = [(host_of(one), one.evidence.text) for one in two.check() if one.rule == "preflight.port" and one.evidence]
    assert told == [("spark1", "api port 8888 is free"), ("spark1", "master port 29501 is free")]


def test_dp_rpc_port_over_hosts(two: Two) -> None:
    recipe = two.plan.recipe.model_copy(
        update={"layout": recipes.find("smollm2-135m").layout.model_copy(update={"dp": 2})}
    )
    two.plan = plan_on(two.plan.inventory, recipe)
    texts = [one.evidence.text for one in two.check() if one.rule == "preflight.port" and one.evidence]
    assert "dp_rpc port 13345 is free" in texts


def test_wrong_interface_name_lists_those_that_exist(two: Two) -> None:
    first, second = two.plan.inventory.hosts
    assert second.fabric is not None
    wrong = second.model_copy(update={"fabric": second.fabric.model_copy(update={"interface": "eth0"})})
    two.plan = plan_on(two.plan.inventory.model_copy(update={"hosts": [first, wrong]}), two.plan.recipe)
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.interface", "spark2")
    assert "no interface eth0" in str(finding.cause) and f"{CABLE} (10.10.10.2/24, up)" in str(finding.cause)
    assert "docker0" not in str(finding.cause)
    assert (
        finding.fix == f"in the inventory, host spark2: set fabric.interface to {CABLE}, which has the plan's address"
    )


def test_an_interface_that_only_the_environment_names_wrongly(two: Two) -> None:
    two.plan = plan_on(two.plan.inventory.model_copy(update={"env": {"GLOO_SOCKET_IFNAME": "ib0"}}), two.plan.recipe)
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
    assert list(failed(findings)) == []


def test_memlock_is_asked_in_a_container_with_the_plans_options(two: Two) -> None:
    two.change("spark2", "limits", stdout=LIMITED)
    finding = two.only_failure()
    assert finding.rule == "preflight.memlock" and "8388608 bytes" in str(finding.cause)
    assert finding.evidence and finding.evidence.command and finding.evidence.command[:3] == ["docker", "run", "--rm"]


def test_a_container_that_may_not_have_the_limit(two: Two) -> None:
    said = "docker: Error response from daemon: error setting rlimit type 8: operation not permitted: unknown.\nhint\n"
    two.change("spark2", "limits", stdout="", stderr=said, code=126)
    finding = two.only_failure()
    assert finding.rule == "preflight.memlock" and "error setting rlimit type 8" in str(finding.cause)


def test_port_taken_says_by_whom_and_where(two: Two) -> None:
    two.change("spark1", "ss", stdout='LISTEN 0 9 127.0.0.1:8888 0.0.0.0:* users:(("python3",pid=4242,fd=3))\n')
    finding = two.only_failure()
    assert finding.cause == "api port 8888 on spark1 is taken by python3 (pid 4242)"
    assert finding.fix == "--set port=PORT, or end it: kill 4242"


def test_page_cache_on_unified_memory(two: Two) -> None:
    two.change("spark2", "memory", stdout=meminfo(8.0, cached_gib=105.0))
    finding = two.only_failure()
    assert "page cache" in str(finding.cause) and "103.4 GiB" in str(finding.cause)
    assert finding.fix == "ssh -- 10.10.10.2 'sudo sysctl -w vm.drop_caches=3'"


def test_memory_that_a_process_holds(two: Two) -> None:
    two.change("spark2", "memory", stdout=meminfo(60.0))
    finding = two.only_failure()
    assert "held by /usr/local/bin/python (pid 114687, 18.7 GiB)" in str(finding.cause)
    assert str(finding.fix).endswith("or --set gpu_memory_utilization=0.5")


def of_own_memory(two: Two) -> None:
    """The same two hosts with GPUs that have memory of their own."""
    hosts = [
        host.model_copy(update={"gpus": [gpu.model_copy(update={"unified_memory": False}) for gpu in host.gpus]})
        for host in two.plan.inventory.hosts
    ]
    two.plan = plan_on(two.plan.inventory.model_copy(update={"hosts": hosts}), two.plan.recipe)
    for number, used_mib in ((1, 400), (2, 60000)):
        load = Reply(argv=["nvidia-smi", "--query-gpu=index,util*", "**"], stdout=f"0, 0, 10.0, {used_mib}, 40\n")
        two.replies[f"spark{number}"]["load"] = load


def test_memory_of_a_gpu_that_somebody_uses(two: Two) -> None:
    of_own_memory(two)
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.memory", "spark2")
    assert "vLLM claims 0.85 of GPU 0 of spark2 = 101.7 GiB, and 61.1 GiB is free" in str(finding.cause)
    assert str(finding.fix).endswith("or --set gpu_memory_utilization=0.51")


def test_a_gpu_that_the_driver_does_not_have(two: Two) -> None:
    two.change("spark2", "gpu", stdout="No devices were found\n")
    finding = two.only_failure()
    assert finding.rule == "preflight.gpu" and "which has none" in str(finding.cause)


def without_containers(two: Two, versions: tuple[str, str]) -> None:
    """The same two hosts, with the engine in an environment of its own on each."""
    inventory = two.plan.inventory.model_copy(update={"launcher": "slurm"})
    plan = plan_on(inventory, two.plan.recipe)
    engine = EngineChoice(name="vllm", version="0.32.0", environment="/opt/engine")
    two.plan = plan.model_copy(update={"engine": engine})
    for host, version in zip(("spark1", "spark2"), versions, strict=True):
        two.replies[host]["limits"] = Reply(argv=["cat", "/proc/self/limits"], stdout=UNLIMITED)
        two.replies[host]["version"] = Reply(argv=["/opt/engine/bin/python", "-c", "*"], stdout=f"{version}\n")


def test_engine_versions(two: Two) -> None:
    without_containers(two, ("0.32.0", "0.32.0"))
    assert {one.status for one in two.check() if one.rule == "preflight.engine_version"} == {"passed"}
    without_containers(two, ("0.32.0", "0.31.1"))
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.engine_version", "spark2")
    assert "spark2 has vLLM 0.31.1; spark1 has vLLM 0.32.0" in str(finding.cause)
    assert two.plan.engine.environment is not None
    native = two.plan.engine
    for theirs, told in [("2.59.0\n3.11.2", "Ray 2.59.0"), ("\n3.11.2", "no Ray"), ("2.60.0\n3.12.1", "Python 3.12.1")]:
        without_containers(two, ("0.32.0\n2.60.0\n3.11.2", f"0.32.0\n{theirs}"))
        assert "preflight.engine_version" not in [one.rule for one in two.check() if one.status == "failed"]
        two.plan = two.plan.model_copy(update={"engine": native.model_copy(update={"name": "vllm-ray"})})
        finding = two.only_failure()
        assert (finding.rule, host_of(finding)) == ("preflight.engine_version", "spark2")
        assert told in str(finding.cause)
    without_containers(two, ("0.32.0", "0.32.0"))
    two.change("spark2", "limits", stdout=LIMITED)
    assert "limits.d" in str(two.only_failure().fix)


def test_docker_stopped_and_without_gpus(two: Two) -> None:
    two.change("spark1", "docker", stdout=captured("docker_info", "no_gpu_runtime"))
    finding = two.only_failure()
    assert finding.rule == "preflight.gpu_runtime" and "nvidia-ctk" in str(finding.fix)
    two.change("spark1", "docker", stdout=captured("docker_info", "engine_stopped"))
    finding = two.only_failure()
    assert finding.rule == "preflight.docker" and finding.fix == "sudo systemctl start docker"


def test_image_differs_and_image_missing(two: Two) -> None:
    two.change("spark2", "image", stdout=f"{IMAGE_B} arm64\n")
    finding = two.only_failure()
    image = two.plan.engine.image
    assert (finding.rule, host_of(finding)) == ("preflight.image", "spark2")
    assert finding.fix == f"docker save -- {image} | ssh -- 10.10.10.2 'docker load'"
    two.change("spark2", "image", stdout="\n", stderr=f"Error: No such image: {image}\n", code=1)
    assert f"spark2 has no image {image}; spark1 has it" == two.only_failure().cause


def manifests(two: Two, here: dict[str, str], there: dict[str, str]) -> None:
    """Model files of both hosts, by name and digest."""
    two.plan = two.plan.model_copy(update={"model_path": "/models/m"})
    for host, files in (("spark1", here), ("spark2", there)):
        listing = "".join(f"10 1.0 1.0 {host[-1]} {name}\0" for name in files)
        digests = "".join(f"{digest * 32}  /models/m/{name}\0" for name, digest in files.items())
        two.replies[host] |= {
            "folder": Reply(argv=["test", "-e", "*"], code=int(not files)),
            "list": Reply(argv=["find", "-L", "/models/m", "**"], stdout=listing),
            "hash": Reply(argv=["xargs", "**"], stdout=digests),
        }


def test_model_files_are_the_same(two: Two) -> None:
    manifests(two, {"config.json": "a", "model.safetensors": "b"}, {"config.json": "a", "model.safetensors": "b"})
    of_model = [one for one in two.check() if one.rule == "preflight.model"]
    assert [(host_of(one), one.status) for one in of_model] == [("spark1", "passed"), ("spark2", "passed")]


def test_model_files_that_differ_or_are_missing(two: Two) -> None:
    manifests(two, {"config.json": "a", "model.safetensors": "b"}, {"config.json": "a", "model.safetensors": "c"})
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.model", "spark2")
    assert "differ, compared with spark1: model.safetensors" in str(finding.cause)
    assert str(finding.fix).startswith(
        "tar -C /models/m -cf - -- model.safetensors | ssh -- 10.10.10.2 'tar -C /models/m"
    )
    manifests(two, {"config.json": "a"}, {})
    assert "on spark2 are missing" in str(two.only_failure().cause)


def test_no_room_for_a_model_that_is_missing(two: Two) -> None:
    two.change("spark2", "model", stdout="", stderr="ls: cannot access: No such file or directory\n", code=2)
    finding = two.only_failure()
    assert finding.rule == "preflight.disk" and "the model (" in str(finding.cause)


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


def test_this_machine_alone_is_asked_for_ports_memory_and_disk() -> None:
    plan = plan_on(inventories.find("laptop"), recipes.find("smollm2-135m"))
    findings = preflight(plan, lambda host: Fake(host.name, list(healthy(1).values())), vllm.processes(plan))
    assert [(one.rule, one.status) for one in findings] == [
        ("preflight.port", "passed"),
        ("preflight.memory", "passed"),
        ("preflight.disk", "passed"),
    ]


def test_a_recipe_value_never_becomes_a_command(two: Two) -> None:
    hostile = "a'; touch /tmp/x #"
    two.plan = two.plan.model_copy(update={"engine": two.plan.engine.model_copy(update={"image": hostile})})
    two.check()
    asked = [call.argv for fake in two.hosts.values() for call in fake.calls if call.argv[:2] == ["docker", "image"]]
    assert asked and all(argv[-2:] == ["--", hostile] for argv in asked)
