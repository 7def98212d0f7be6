"""Docker on a host: does it answer, know the GPUs, have the image; and what a container of the plan sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

from overspan.inventory import probes, software
from overspan.inventory.fact import Capture, Fact, Seen, Unreadable, Value
from overspan.inventory.gpus import NVIDIA_SMI
from overspan.inventory.here import has_driver
from overspan.preflight.fabric import rdma_over_hosts
from overspan.preflight.facts import (
    IN_DOCKER,
    ON_GPUS,
    ON_GPUS_IN_DOCKER,
    HostFacts,
    check,
    failed,
    group_check,
    not_asked,
    passed,
    side_by_side,
    unreadable,
)
from overspan.schema.finding import Finding
from overspan.schema.paste import command
from overspan.schema.units import gib
from overspan.transport.docker import ImageRecord, run_once

REGISTER_BYTES: Final = 2**30
"""Memory that RDMA must be able to lock. A choice: hosts have 64 KiB, 8 MB (both too small for NCCL's buffers) or no
limit, and this tells them apart."""

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


@check("preflight.docker", when=IN_DOCKER)
def docker(host: HostFacts) -> Finding:
    """Docker answers."""
    seen, capture = host.look(software.DOCKER)
    if seen.value is not None:
        return passed(capture, f"Docker {seen.value.version}")
    fix = host.paste("sudo", "systemctl", "start", "docker")
    if seen.absent:
        fix = host.paste("sudo", "apt-get", "install", "docker.io")
    elif "permission denied" in seen.why.lower():
        fix = host.paste("sh", "-c", 'sudo usermod -aG docker "$USER"') + "   then log in again"
    return failed(capture, seen.why, cause=f"no Docker engine answers on {host.name}: {seen.why}", fix=fix)


@check("preflight.gpu_runtime", when=ON_GPUS_IN_DOCKER)
def gpu_runtime(host: HostFacts) -> Finding:
    """Docker can give GPUs to containers."""
    seen, capture = host.look(software.DOCKER)
    if seen.value is None:
        return unreadable(capture, f"the engine does not answer: {seen.why}")
    if seen.value.gpu:
        return passed(capture, "the NVIDIA runtime, or GPUs as CDI devices, are known to Docker")
    told = f"Docker {seen.value.version} lists no runtime 'nvidia' and no CDI device nvidia.com/gpu"
    cause = f"containers on {host.name} would see no GPU: the NVIDIA container toolkit is not set up in Docker"
    fix = host.paste("sudo", "nvidia-ctk", "runtime", "configure", "--runtime=docker")
    return failed(
        capture, told, cause=cause, fix=f"{fix}   then {host.paste('sudo', 'systemctl', 'restart', 'docker')}"
    )


@check("preflight.gpu", when=ON_GPUS)
def gpus(host: HostFacts) -> Finding:
    """The driver answers and has the plan's GPUs."""
    seen, capture = host.look(NVIDIA_SMI)
    if seen.absent and host.is_here and has_driver():
        return unreadable(capture, "the driver is loaded; its tool nvidia-smi is not installed")
    if seen.value is None:
        cause = f"the NVIDIA driver of {host.name} does not answer: {seen.why}"
        fix = host.paste("sudo", "ubuntu-drivers", "install") if seen.absent else host.paste("nvidia-smi")
        return failed(capture, seen.why, cause=cause, fix=fix)
    usable = [row for row in seen.value if row.index is not None and not row.gone]
    missing = sorted({gpu.index for gpu in host.gpus} - {row.index for row in usable})
    told = ", ".join(f"{row.index}: {row.name}" for row in usable) or "none"
    told += "".join(f"; {row.gone}" for row in seen.value if row.gone)
    if not missing:
        return passed(capture, told)
    cause = f"the plan uses GPU {', '.join(map(str, missing))} of {host.name}, which has {told}"
    return failed(capture, told, cause=cause, fix=host.detect(host.entry))


def locks_memory(host: HostFacts) -> bool:
    """Whether this plan needs locked memory here: RDMA between hosts, or a container that is told to have it."""
    return (host.several and host.cuda) or any("memlock" in option for option in _ulimits(host))


@check("preflight.memlock", when=locks_memory, cost="one command; with Docker one container that ends at once")
def memlock(host: HostFacts) -> Finding:
    """Processes may lock the memory that RDMA registers. In a container with this plan's own options."""
    seen, capture = _container_limits(host) if host.docker else host.look(probes.LIMITS)
    if seen.value is None:
        if "ulimit" not in seen.why and "rlimit" not in seen.why:
            return unreadable(capture, seen.why)
        cause = f"{host.name} does not let a container have the limit that the plan asks for: {seen.why}"
        fix = "take --ulimit memlock=-1 out of the host's container.options, or raise the hard limit: "
        fix += host.paste("sudo", "systemctl", "edit", "docker") + "   with [Service] LimitMEMLOCK=infinity"
        return failed(capture, seen.why, cause=cause, fix=fix)
    soft = seen.value.memlock_soft_bytes
    told = "unlimited" if soft == probes.UNLIMITED else f"{soft} bytes"
    if soft == probes.UNLIMITED or soft >= REGISTER_BYTES:
        return passed(capture, f"locked memory: {told}")
    cause = f"a process on {host.name} may lock only {told}: RDMA cannot register its buffers, and NCCL fails or "
    cause += "falls back to sockets"
    fix = f"add to host {host.name} in the inventory: container: {{options: [--ulimit, memlock=-1]}}"
    if not host.docker:
        fix = host.paste("sudo", "sh", "-c", "echo '* - memlock unlimited' > /etc/security/limits.d/99-rdma.conf")
    rdma = (host.entry.fabric and host.entry.fabric.hcas) or any(nic.rdma_device for nic in host.entry.nics)
    return failed(capture, f"locked memory: {told}", cause=cause, fix=fix, severity="error" if rdma else "warning")


def _ulimits(host: HostFacts) -> list[str]:
    """The `--ulimit` options of this plan's containers."""
    found: list[str] = []
    for spec in host.specs:
        for word, after in pairwise([*spec.docker_options, ""]):
            found += [f"--ulimit={after}"] if word == "--ulimit" else [word] if word.startswith("--ulimit=") else []
    return list(dict.fromkeys(found))


def _container_limits(host: HostFacts) -> tuple[Seen[probes.Limits], Capture]:
    """Asked inside a container of the plan's image: the engine's own limits are what counts, not the session's."""
    argv = run_once(host.plan.engine.image or "", "cat", "/proc/self/limits", options=_ulimits(host))
    seen, capture = host.look(Fact("limits", argv, probes.parse_limits))
    complaint = docker_complaint(capture)
    return (seen if seen.value is not None or complaint is None else Seen(None, complaint)), capture


def docker_complaint(capture: Capture) -> str | None:
    """Docker's own line on why a container did not start."""
    lines = capture.stderr.splitlines()
    return next((line for line in lines if line.startswith("docker: ") or "rror" in line), None)


@group_check("preflight.image", when=IN_DOCKER)
def same_image(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """Every host has the same image."""
    name = hosts[0].plan.engine.image
    if name is None:
        yield hosts[0].name, not_asked("the plan names no image")
        return
    seen = side_by_side(hosts, lambda host: host.look(probes.image(name)))
    source = next(((host, found.value) for host, (found, _) in seen if found.value), None)
    for host, (found, capture) in seen:
        yield host.name, _image(host, name, found, capture, source)


def _image(
    host: HostFacts, name: str, seen: Seen[ImageRecord], capture: Capture, first: tuple[HostFacts, ImageRecord] | None
) -> Finding:
    if seen.value is None and (capture.missing is not None or "no such" not in seen.why.lower()):
        return unreadable(capture, seen.why)
    if first is None:
        cause = f"{host.name} has no image {name}, and no other host of the plan has it"
        return failed(capture, seen.why, cause=cause, fix=host.paste("docker", "pull", name))
    source, wanted = first
    copy = f"{source.paste('docker', 'save', '--', name)} | {host.paste('docker', 'load')}"
    if seen.value is None:
        return failed(capture, seen.why, cause=f"{host.name} has no image {name}; {source.name} has it", fix=copy)
    if seen.value.id == wanted.id:
        return passed(capture, seen.value.id)
    cause = f"image {name} on {host.name} is {seen.value.id[:19]}, on {source.name} {wanted.id[:19]}: ranks of "
    cause += "different engines do not understand each other"
    return failed(capture, seen.value.id, cause=cause, fix=copy)


def parse_inside(text: str) -> dict[str, str]:
    """A name and what belongs to it on each line."""
    said = dict(line.partition(" ")[::2] for line in text.splitlines())
    if "shm" not in said:
        raise Unreadable(f"the container said {text.strip()[:80]!r}")
    return said


def _of_container(host: HostFacts, name: str, program: str, script: str, parse: Callable[[str], Value]) -> Fact[Value]:
    spec = next((spec for spec in host.specs if spec.image), None)
    options = spec.docker_options if spec else []
    return Fact(name, run_once(host.plan.engine.image or "", program, "-c", script, options=options), parse)


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
