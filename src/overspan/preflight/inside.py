"""What a container of the plan sees, asked once in one that is started with the plan's own options and ends at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from overspan.inventory.fact import Fact, Unreadable, Value
from overspan.preflight.containers import docker_complaint
from overspan.preflight.fabric import rdma_over_hosts
from overspan.preflight.facts import (
    IN_DOCKER,
    ON_GPUS_IN_DOCKER,
    HostFacts,
    check,
    failed,
    not_asked,
    passed,
    unreadable,
)
from overspan.schema.finding import Finding
from overspan.schema.paste import command
from overspan.schema.units import gib

COST: Final = "one container for this and the next, which ends at once"

SHARED_BYTES: Final = 2**30
"""Source: corpus nccl-shm-too-small: more than 1024 MB."""

_ASK: Final = """
echo "shm $(df -P -k /dev/shm 2>/dev/null | tail -n 1)"
echo "rdma $(ls /dev/infiniband 2>/dev/null | tr '\\n' ' ')"
echo "gpus $(nvidia-smi -L 2>&1 | tr '\\n' ';')"
dirs="$(ls -d /opt/hpcx /opt/amazon 2>/dev/null | tr '\\n' ' ')"
echo "plugin $(ldconfig -p 2>/dev/null | grep -o 'libnccl-net[^ ]*' | head -n 1) $dirs"
echo "ucx $(command -v ucx_info >/dev/null && ucx_info -d 2>/dev/null | grep -c cuda)"
echo "nvcc $(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)"
echo "cc $(command -v cc || command -v gcc || command -v clang)"
echo "headers $(ls /usr/include/python3*/Python.h /usr/local/include/python3*/Python.h 2>/dev/null | tr '\\n' ' ')"
"""
_NO_IMAGE_OR_SHELL: Final = (
    "no such image",
    "unable to find image",
    "executable file not found",
    "no such file or directory",
)
"""What docker says where the image is still to come, or has no shell."""

_BY_LIMIT: Final = ("rlimit", "ulimit")


def parse_inside(text: str) -> dict[str, str]:
    """A name and what belongs to it on each line."""
    said = dict(line.partition(" ")[::2] for line in text.splitlines())
    if "shm" not in said:
        raise Unreadable(f"the container said {text.strip()[:80]!r}")
    return said


def _of_container(host: HostFacts, name: str, program: str, script: str, parse: Callable[[str], Value]) -> Fact[Value]:
    spec = next((spec for spec in host.specs if spec.image), None)
    return Fact(name, host.container(program, "-c", script, options=spec.docker_options if spec else []), parse)


def _inside(host: HostFacts) -> Fact[dict[str, str]]:
    return _of_container(host, "inside", "sh", _ASK, parse_inside)


@check("preflight.container", when=IN_DOCKER, cost=COST)
def starts(host: HostFacts) -> Finding:
    """A container with the plan's options starts."""
    seen, capture = host.look(_inside(host))
    if seen.value is not None:
        return passed(capture, "it started and ended")
    said = docker_complaint(capture)
    if capture.missing is not None or capture.code is None or said is None:
        return unreadable(capture, said or seen.why)
    if any(word in said.lower() for word in _NO_IMAGE_OR_SHELL):
        return unreadable(capture, f"the image is not there yet, or has no shell: {said}")
    if any(word in said for word in _BY_LIMIT):
        return not_asked(f"see preflight.memlock: {said}")
    cause = f"Docker on {host.name} does not start a container of {host.plan.engine.image} as the plan wants it: {said}"
    return failed(capture, said, cause=cause, fix=_doctor_on(said))


def _doctor_on(line: str) -> str:
    """The line is an image's or a host's own text."""
    return f"{command('overspan', 'doctor', '-')} <<< {command(line[:120])}   names the cause"


@check("preflight.shm", when=IN_DOCKER, cost=COST)
def shared_memory(host: HostFacts) -> Finding:
    """Its shared memory is large enough. It holds what NCCL, torch and the engine's queues share."""
    seen, capture = host.read(_inside(host))
    cells = seen["shm"].split()
    if len(cells) < 2 or not cells[1].isdigit():
        return unreadable(capture, "the container does not tell the size of /dev/shm")
    size = int(cells[1]) * 1024
    if size >= SHARED_BYTES:
        return passed(capture, f"shared memory: {gib(size)}")
    cause = f"shared memory in a container on {host.name} is {gib(size)}: "
    cause += f"NCCL and torch need more than {gib(SHARED_BYTES)}"
    fix = f"take --ipc and --shm-size out of the options of host {host.name}, or: options: [--shm-size, 8g]"
    return failed(capture, f"shared memory: {gib(size)}", cause=cause, fix=fix)


@check("preflight.gpu_inside", when=ON_GPUS_IN_DOCKER, cost=COST)
def sees_gpus(host: HostFacts) -> Finding:
    """It sees the plan's GPUs."""
    seen, capture = host.read(_inside(host))
    said = seen.get("gpus", "")
    listed = said.count("GPU ")
    if listed > max((gpu.index for gpu in host.gpus), default=0):
        return passed(capture, said.rstrip(";"))
    cause = f"a container on {host.name} sees {listed} GPUs, and the plan uses GPU "
    cause += ", ".join(str(gpu.index) for gpu in host.gpus)
    fix = f"take --gpus and NVIDIA_VISIBLE_DEVICES out of the options of host {host.name}; "
    fix += host.paste("sudo", "nvidia-ctk", "runtime", "configure", "--runtime=docker")
    return failed(capture, said[:200] or "nothing", cause=cause, fix=fix)


@check("preflight.rdma_inside", when=lambda host: host.cuda_in_docker and rdma_over_hosts(host), cost=COST)
def sees_rdma(host: HostFacts) -> Finding:
    """It has the RDMA devices. Without them NCCL takes sockets without a word."""
    seen, capture = host.read(_inside(host))
    devices = seen.get("rdma", "").split()
    if any(device.startswith("uverbs") for device in devices):
        return passed(capture, " ".join(devices))
    cause = f"a container on {host.name} has no /dev/infiniband/uverbs*: NCCL would go over TCP, many times slower"
    fix = f"options of host {host.name}: [--device, /dev/infiniband, --ulimit, memlock=-1]"
    return failed(capture, " ".join(devices) or "no /dev/infiniband", cause=cause, fix=fix)


@check("preflight.compiler", when=ON_GPUS_IN_DOCKER, cost=COST)
def can_compile(host: HostFacts) -> Finding:
    """The image can build Triton's launcher. Triton builds it at the first step, and needs a C compiler and
    Python's headers."""
    seen, capture = host.read(_inside(host))
    missing = [what for name, what in (("cc", "C compiler"), ("headers", "Python.h")) if not seen.get(name)]
    if not missing:
        return passed(capture, f"{seen['cc']}, {seen['headers'].strip()}")
    cause = f"image {host.plan.engine.image} has no {' and no '.join(missing)}: Triton cannot build its launcher"
    fix = "an image with gcc and python3-dev; an environment of its own may hold the headers elsewhere"
    return failed(capture, f"no {', no '.join(missing)}", cause=cause, fix=fix, severity="warning")


@check(
    "preflight.net_plugin",
    when=lambda host: host.cuda_in_docker and any(gpu.kind == "gb10" for gpu in host.gpus),
    cost=COST,
)
def net_plugin(host: HostFacts) -> Finding:
    """On a Spark: the image brings no other network plugin of NCCL. There such a plugin ends ncclCommInitRank
    before a word is logged."""
    seen, capture = host.read(_inside(host))
    found = seen.get("plugin", "").strip()
    told = host.setting("NCCL_NET_PLUGIN")
    if not found or told == ["none"]:
        return passed(capture, f"NCCL_NET_PLUGIN={told[0]}" if told else "the image has no other network plugin")
    cause = f"image {host.plan.engine.image} brings {found.split()[0]}, and NCCL_NET_PLUGIN is not none"
    return failed(capture, found, cause=cause, fix="NCCL_NET_PLUGIN: none in env of the inventory", severity="warning")


def disaggregated(host: HostFacts) -> bool:
    """Whether KV caches go from one engine to another."""
    return host.cuda_in_docker and any(spec.role in {"prefill", "decode"} for spec in host.specs)


@check("preflight.ucx", when=disaggregated, cost=COST)
def moves_gpu_memory(host: HostFacts) -> Finding:
    """With prefill and decode apart: UCX knows CUDA memory. So NIXL can register the KV cache."""
    seen, capture = host.read(_inside(host))
    if not seen.get("ucx"):
        return unreadable(capture, "the image has no ucx_info")
    if seen["ucx"] != "0":
        return passed(capture, f"ucx_info names cuda {seen['ucx']} times")
    cause = f"UCX in image {host.plan.engine.image} knows no CUDA memory: NIXL cannot register the KV cache"
    fix = "take UCX_TLS out of env, or an image whose UCX was built with CUDA"
    return failed(capture, "no cuda in ucx_info -d", cause=cause, fix=fix)


@check("preflight.nvcc", when=ON_GPUS_IN_DOCKER, cost=COST)
def has_nvcc(host: HostFacts) -> Finding:
    """The image has the CUDA compiler. FlashInfer and DeepGEMM build kernels at the first step where the image
    does not bring them."""
    seen, capture = host.read(_inside(host))
    if seen.get("nvcc"):
        return passed(capture, seen["nvcc"])
    cause = f"image {host.plan.engine.image} has no nvcc: a kernel that it does not bring cannot be built at first use"
    fix = "nothing, if it holds flashinfer-jit-cache and -cubin; else an image with the CUDA compiler"
    return failed(capture, "no nvcc", cause=cause, fix=fix, severity="warning")


IMPORT_COST: Final = "one container for some ten seconds: it imports torch"

_IMPORT: Final = """
import torch
print("arch", *torch.cuda.get_arch_list())
print("gpu", *sorted({"%d%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}))
import vllm._C
"""


def parse_import(text: str) -> dict[str, list[str]]:
    """The architectures that torch was built for, and those of the GPUs."""
    said = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("arch ", "gpu"))}
    if "arch" not in said:
        raise Unreadable(text.strip()[:80])
    return said


@check("preflight.engine_import", when=ON_GPUS_IN_DOCKER, cost=IMPORT_COST)
def engine_imports(host: HostFacts) -> Finding:
    """The image's engine loads here and has code for these GPUs."""
    seen, capture = host.look(_of_container(host, "import", "python3", _IMPORT, parse_import))
    errors = [line for line in capture.stderr.splitlines() if re.match(r"\w*(?:Error|Exception)\b", line)]
    if errors and "ModuleNotFoundError" not in errors[-1]:
        cause = f"the image's engine does not load on {host.name}: {errors[-1][:200]}"
        return failed(capture, errors[-1], cause=cause, fix=_doctor_on(errors[-1]))
    if seen.value is None or not seen.value.get("gpu"):
        return unreadable(capture, errors[-1] if errors else seen.why or "torch sees no GPU")
    strange = [gpu for gpu in seen.value["gpu"] if not _has_code(gpu, seen.value["arch"])]
    told = f"torch has {' '.join(seen.value['arch'])}; the GPUs are sm_{', sm_'.join(seen.value['gpu'])}"
    if not strange:
        return passed(capture, told)
    cause = f"the image's torch has no code for sm_{strange[0]} of {host.name}: 'no kernel image is available'"
    return failed(capture, told, cause=cause, fix="an image that was built for this GPU")


def _has_code(gpu: str, built: list[str]) -> bool:
    """Code runs on its own architecture and on later ones of the same major number; PTX on all later ones."""
    numbers = [re.fullmatch(r"(sm|compute)_(\d+)a?f?", arch) for arch in built]
    return any(
        found and int(found[2]) <= int(gpu) and (found[1] == "compute" or found[2][:-1] == gpu[:-1])
        for found in numbers
    )
