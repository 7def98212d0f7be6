"""Scripted hosts with a fault deep inside: GPUs, containers, names, the hub, or the plan's own settings."""

from __future__ import annotations

import pytest

from overspan.catalog import inventories, recipes
from overspan.engines import vllm, vllm_ray
from overspan.preflight import blocking, preflight
from overspan.preflight.gpus import parse_details, parse_topology, satisfied
from overspan.schema.finding import Finding
from overspan.schema.inventory import Gpu
from overspan.transport.fake import Fake, Reply
from support.two_sparks import DETAILS, HCA, IMPORTED, INSIDE, REQUIRES, Two, gids, healthy, host_of, plan_on


def found(two: Two, rule: str) -> list[Finding]:
    return [one for one in two.check() if one.rule == rule and one.status == "failed"]


def with_env(two: Two, **env: str) -> None:
    two.plan = plan_on(two.plan.inventory.with_(env=env), two.plan.recipe)


def with_kind(two: Two, kind: str) -> None:
    hosts = [host.with_(gpus=[gpu.with_(kind=kind) for gpu in host.gpus]) for host in two.plan.inventory.hosts]
    two.plan = plan_on(two.plan.inventory.with_(hosts=hosts), two.plan.recipe)


def test_a_driver_older_than_the_image(two: Two) -> None:
    two.change("spark2", "requires", stdout=REQUIRES.replace("cuda>=13.0", "cuda>=13.2"))
    finding = two.only_failure()
    assert (finding.rule, host_of(finding)) == ("preflight.driver", "spark2")
    assert "asks for cuda>=13.2; driver 580.95.05 of spark2 knows CUDA 13.0" in str(finding.cause)


@pytest.mark.parametrize(
    ("requirement", "cuda", "driver", "holds"),
    [
        ("cuda>=12.9 brand=tesla,driver>=570,driver<571", "12.8", "570.86", True),
        ("cuda>=12.9 brand=tesla,driver>=570,driver<571", "12.4", "550.54", False),
        ("cuda>=12.9", "13.0", "580.95", True),
        ("driver>=410", "12.0", "375.26", False),
    ],
)
def test_what_an_image_asks_of_a_driver(requirement: str, cuda: str, driver: str, holds: bool) -> None:
    assert satisfied(requirement, cuda, driver) is holds


def test_gpus_that_wait_for_the_fabric_manager(two: Two) -> None:
    two.change(
        "spark1",
        "details",
        stdout=DETAILS.replace(
            "State                                          : N/A",
            "State                                          : In Progress",
        ),
    )
    finding = two.only_failure()
    assert finding.rule == "preflight.nvswitch" and "error 802" in str(finding.cause)
    assert finding.fix == "sudo systemctl restart nvidia-fabricmanager"


def test_uncorrectable_memory_errors_since_boot_but_not_of_all_time(two: Two) -> None:
    assert (
        parse_details(
            DETAILS.replace(
                "Uncorrectable                         : 0\n    Fabric",
                "Uncorrectable                         : 7\n    Fabric",
            )
        ).uncorrectable
        == 0
    )
    two.change(
        "spark2",
        "details",
        stdout=DETAILS.replace(
            "DRAM Uncorrectable                         : 0", "DRAM Uncorrectable                         : 2", 1
        ),
    )
    finding = two.only_failure()
    assert finding.rule == "preflight.ecc" and "had 2 uncorrectable" in str(finding.cause)


def test_a_fault_in_the_kernels_log_is_a_warning_and_no_permission_is_no_answer(two: Two) -> None:
    line = "Nov 22 14:28:37 spark2 kernel: NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."
    two.change("spark2", "xid", stdout=f"{line}\n", code=0)
    (finding,) = found(two, "preflight.xid")
    assert finding.severity == "warning" and "79, GPU has fallen off the bus" in str(finding.cause)
    hint = "Hint: You are currently not seeing messages from other users and the system.\n"
    two.change("spark2", "xid", stdout="", stderr=hint, code=1)
    assert [one.status for one in two.check() if one.rule == "preflight.xid"] == ["passed", "not_evaluated"]


TOPOLOGY = " \tGPU0\tGPU1\t\n GPU0\tX\tNS\t\n GPU1\tNS\tX\t\n\nLegend:\n\n  X    = Self\n  OK   = Status Ok\n"


def test_gpus_of_one_host_that_do_not_reach_each_other(two: Two) -> None:
    hosts = []
    for host in two.plan.inventory.hosts:
        second: Gpu = host.gpus[0].with_(index=1)
        hosts.append(host.with_(gpus=[host.gpus[0], second]))
    recipe = two.plan.recipe.with_(layout=two.plan.recipe.layout.with_(tp=4, ep=4))
    two.plan = plan_on(two.plan.inventory.with_(hosts=hosts), recipe)
    for name in ("spark1", "spark2"):
        two.replies[name]["p2p"] = Reply(argv=["nvidia-smi", "topo", "**"], stdout=TOPOLOGY)
    assert [one.severity for one in found(two, "preflight.p2p")] == ["warning", "warning"]
    assert parse_topology(TOPOLOGY.replace("NS", "OK")) == {(0, 1): "OK", (1, 0): "OK"}


def test_the_nvlink_domain_between_hosts(two: Two) -> None:
    two.plan = two.plan.with_(recipe=two.plan.recipe.with_(engine_args={}))
    with_kind(two, "gb200")
    for name in ("spark1", "spark2"):
        two.replies[name]["channel"] = Reply(argv=["test", "-w", "**"])
        two.replies[name]["imex"] = Reply(argv=["nvidia-imex-ctl", "-N"], stdout="Domain State: UP\n")
    assert found(two, "preflight.imex") == []
    (finding, _) = found(two, "preflight.all_reduce")
    assert finding.fix == "--set disable_custom_all_reduce=true"
    two.change("spark2", "imex", stdout="Domain State: DOWN\n")
    assert "domain of spark2 is not up" in str(found(two, "preflight.imex")[0].cause)
    two.change("spark2", "channel", code=1)
    assert "channel0" in str(found(two, "preflight.imex")[0].cause)


def test_deepep_without_its_module(two: Two) -> None:
    for name in ("spark1", "spark2"):
        two.replies[name]["modules"] = Reply(argv=["cat", "/proc/modules"], stdout="nvidia 1 0 - Live\n")
    assert found(two, "preflight.peermem") == []
    with_env(two, VLLM_ALL2ALL_BACKEND="deepep_low_latency")
    assert {one.severity for one in found(two, "preflight.peermem")} == {"warning"}
    two.change("spark1", "modules", stdout="nvidia_peermem 1 0 - Live\n")
    assert [host_of(one) for one in found(two, "preflight.peermem")] == ["spark2"]


def test_a_container_that_does_not_start_is_told_once_with_dockers_line(two: Two) -> None:
    said = 'docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].\n'
    two.change("spark2", "inside", stdout="", stderr=said, code=125)
    finding = two.only_failure()
    assert finding.rule == "preflight.container" and "could not select device driver" in str(finding.cause)
    two.change("spark2", "inside", stderr="docker: Error response from daemon: No such image: x:1.\n")
    assert not any(blocking(two.check()))


def test_what_a_container_sees(two: Two) -> None:
    changed = {
        "preflight.shm": INSIDE.replace("63000000 0 63000000", "65536 0 65536"),
        "preflight.gpu_inside": INSIDE.replace("GPU 0: NVIDIA GB10 (UUID: GPU-1);", "No devices were found;"),
        "preflight.rdma_inside": INSIDE.replace("rdma_cm uverbs0 uverbs1 ", ""),
        "preflight.net_plugin": INSIDE.replace("plugin  ", "plugin libnccl-net.so /opt/hpcx "),
        "preflight.nvcc": INSIDE.replace("/usr/local/cuda/bin/nvcc", ""),
        "preflight.compiler": INSIDE.replace("/usr/include/python3.12/Python.h ", ""),
    }
    for rule, said in changed.items():
        two.change("spark2", "inside", stdout=said)
        finding = two.only_failure()
        assert (finding.rule, host_of(finding)) == (rule, "spark2")
    assert finding.severity == "warning" and "Python.h" in str(finding.cause)


def test_a_ucx_that_knows_no_gpu_memory(two: Two) -> None:
    two.change("spark2", "inside", stdout=INSIDE.replace("ucx 4", "ucx 0"))
    assert not any(blocking(two.check())), "nothing moves KV caches here"
    processes = [spec.with_(role="decode") for spec in vllm.ENGINE.processes(two.plan)]
    causes = [one.cause for one in preflight(two.plan, two.reach, processes) if one.rule == "preflight.ucx"]
    assert causes[0] is None and "knows no CUDA memory" in str(causes[1])


def test_an_image_whose_engine_does_not_load_or_has_no_code_for_the_gpu(two: Two) -> None:
    two.change("spark2", "import", stdout=IMPORTED.replace(" sm_120 compute_120", ""))
    finding = two.only_failure()
    assert finding.rule == "preflight.engine_import" and "no code for sm_121 of spark2" in str(finding.cause)
    said = "Traceback (most recent call last):\nImportError: libcudart.so.13: cannot open shared object file\n"
    two.change("spark2", "import", stderr=said, code=1)
    assert "libcudart.so.13" in str(two.only_failure().cause)
    two.change("spark2", "import", stdout="", stderr="ModuleNotFoundError: No module named 'torch'\n", code=1)
    assert not any(blocking(two.check()))


def test_sessions_that_take_shared_memory_with_them(two: Two) -> None:
    two.plan = plan_on(two.plan.inventory.with_(launcher="slurm"), two.plan.recipe)
    two.replies["spark2"]["uid"] = Reply(argv=["id", "-u"], stdout="1000\n")
    two.replies["spark2"]["logind"] = Reply(argv=["grep", "-rihs", "**"], code=1)
    assert [(host_of(one), one.severity) for one in found(two, "preflight.removeipc")] == [("spark2", "warning")]
    two.change("spark2", "logind", stdout="RemoveIPC=no\n", code=0)
    assert found(two, "preflight.removeipc") == []
    two.change("spark2", "logind", stdout="", code=1)
    two.change("spark2", "uid", stdout="0\n")
    assert found(two, "preflight.removeipc") == []


def test_a_gid_that_holds_no_address_and_an_index_that_is_wrong(two: Two) -> None:
    two.change("spark2", "gids", stdout=gids(2, index=1))
    finding = two.only_failure()
    assert finding.rule == "preflight.gid" and f"{HCA} of spark2 has no RoCE v2 GID" in str(finding.cause)
    two.change("spark2", "gids", stdout=gids(2))
    with_env(two, NCCL_IB_GID_INDEX="1")
    assert {one.rule for one in two.check() if one.status == "failed"} == {"preflight.gid"}
    assert "is at: 3 (10.10.10.2)" in str(found(two, "preflight.gid")[1].cause)
    with_env(two, NCCL_IB_GID_INDEX="3")
    assert found(two, "preflight.gid") == []


def test_a_name_that_only_the_host_itself_can_reach(two: Two) -> None:
    with_env(two, GLOO_SOCKET_IFNAME="")
    for name in ("spark1", "spark2"):
        two.replies[name]["hostname"] = Reply(argv=["hostname"], stdout=f"{name}\n")
        two.replies[name]["getent"] = Reply(argv=["getent", "**"], stdout=f"127.0.1.1 {name}\n")
    assert "spark1 is 127.0.1.1 on spark1" in str(found(two, "preflight.hostname")[0].cause)
    two.change("spark1", "getent", stdout="10.10.10.1 spark1\n")
    assert [host_of(one) for one in found(two, "preflight.hostname")] == ["spark2"]


def test_clocks_that_differ(two: Two) -> None:
    two.change("spark2", "clock", stdout="1700000000\n")
    assert {one.severity for one in found(two, "preflight.clock")} == {"warning"}


@pytest.mark.parametrize(
    ("code", "said"), [("401", "gated"), ("404", "no model"), ("000", "does not reach the hub"), ("307", "")]
)
def test_the_hub(two: Two, code: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted")
    two.change("spark2", "model", stdout="", stderr="No such file or directory\n", code=2)
    error = "curl: (6) Could not resolve host\n" if code == "000" else ""
    two.replies["spark2"]["curl"] = Reply(argv=["curl", "**"], stdout=code, stderr=error, code=int(bool(error)))
    causes = [str(one.cause) for one in found(two, "preflight.hub")]
    assert len(causes) == bool(said) and all(said in cause for cause in causes)
    (call,) = [call for call in two.hosts["spark2"].calls if call.argv[0] == "curl"]
    assert call.stdin == b'header = "Authorization: Bearer hf_planted"\n' and "hf_planted" not in str(call.argv)


def test_a_cache_that_may_not_be_written_and_weights_that_are_stubs() -> None:
    inventory = inventories.find("laptop")
    host = inventory.hosts[0].with_(model_cache="/cache")
    plan = plan_on(inventory.with_(hosts=[host]), recipes.find("smollm2-135m"))
    plan = plan.with_(model_path="/models/m")
    listing = "total 8\n-rw-r--r-- 1 0 0 2104556 Nov 22 10:00 tokenizer.json\n"
    listing += "-rw-r--r-- 1 0 0 4957560304 Nov 22 10:00 model-00001-of-00003.safetensors\n"

    pointers = "/models/m/model-00003-of-00003.safetensors\n"

    def told(extra: str, writable: int) -> dict[str, str | None]:
        replies = healthy(1) | {
            "cache": Reply(argv=["test", "-w", "**"], code=writable),
            "ls": Reply(argv=["ls", "-lnL", "**"], stdout=listing + extra),
            "grep": Reply(argv=["grep", "-lsF", "**"], stdout=pointers, code=0 if pointers else 1),
        }
        findings = preflight(plan, lambda host: Fake(host.name, list(replies.values())), vllm.ENGINE.processes(plan))
        return {one.rule: one.cause for one in findings if one.status == "failed" and one.rule != "preflight.engine"}

    second = "-rw-r--r-- 1 0 0 4957560304 Nov 22 10:00 model-00002-of-00003.safetensors\n"
    assert "00002-of-00003.safetensors is missing, and 1 more" in str(told("", 0)["preflight.weights"])
    stub = "-rw-r--r-- 1 0 0 134 Nov 22 10:00 model-00003-of-00003.safetensors\n"
    assert "is a Git LFS pointer" in str(told(second + stub, 0)["preflight.weights"])
    pointers = ""
    assert told(second + stub, 0) == {}, "small, but whole"
    assert told(second + stub.replace(" 134 ", " 9000000 "), 0) == {}
    assert list(told(second + stub.replace(" 134 ", " 9000000 "), 1)) == ["preflight.cache"]


def test_one_address_for_all_hosts_in_a_shared_environment(two: Two) -> None:
    with_env(two, VLLM_HOST_IP="10.10.10.1")
    causes = [str(one.cause) for one in found(two, "preflight.host_ip")]
    assert causes == [
        "spark1 and spark2 have one VLLM_HOST_IP, 10.10.10.1: vLLM would count one node",
        "spark2 and spark1 have one VLLM_HOST_IP, 10.10.10.1: vLLM would count one node",
    ]


def test_an_engine_that_is_too_old_for_hosts_without_ray(two: Two) -> None:
    engine = two.plan.engine.with_(version="0.26.1")
    two.plan = two.plan.with_(engine=engine)
    finding = two.only_failure()
    assert finding.rule == "preflight.native_version" and "0.27 waits" in str(finding.cause)


def test_rays_memory_monitor_switched_on_by_the_environment(two: Two) -> None:
    recipe = two.plan.recipe.with_(engine="vllm-ray", env={"RAY_memory_monitor_refresh_ms": "250"})
    two.plan = plan_on(two.plan.inventory, recipe)
    findings = preflight(two.plan, two.reach, vllm_ray.ENGINE.processes(two.plan))
    told = [host_of(one) for one in findings if one.rule == "preflight.ray_memory" and one.status == "failed"]
    assert told == ["spark1", "spark2"]
