"""What a container of the plan sees, asked once in one that is started with the plan's own options and ends at once."""

from __future__ import annotations

import re
from typing import Final

from overspan.inventory.fact import Capture, Fact, Seen, Unreadable
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold
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
_UNTOLD: Final = ("no such image", "unable to find image", "executable file not found", "no such file or directory")
"""What docker says where the image is still to come, or has no shell."""

_BY_LIMIT: Final = ("rlimit", "ulimit")


def parse_inside(text: str) -> dict[str, str]:
    """A name and what belongs to it on each line."""
    said = dict(line.partition(" ")[::2] for line in text.splitlines())
    if "shm" not in said:
        raise Unreadable(f"the container said {text.strip()[:80]!r}")
    return said


def _look(site: Site) -> tuple[Seen[dict[str, str]], Capture]:
    spec = next((spec for spec in site.specs if spec.image), None)
    options = spec.docker_options if spec else []
    argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", "sh"]
    fact = Fact("inside", [*argv, *options, "--", site.plan.engine.image or "", "-c", _ASK], parse_inside)
    return site.look_once(fact)


def starts(site: Site) -> list[Verdict]:
    """A container with the plan's own options starts."""
    seen, capture = _look(site)
    if seen.value is not None:
        return [good(capture, "it started and ended")]
    lines = [line for line in capture.stderr.splitlines() if line.startswith("docker: ") or "rror" in line]
    said = lines[0] if lines else seen.why
    if capture.missing is not None or capture.code is None or not lines:
        return [unknown(capture, said)]
    if any(word in said.lower() for word in _UNTOLD):
        return [unknown(capture, f"the image is not there yet, or has no shell: {said}")]
    if any(word in said for word in _BY_LIMIT):
        return [untold(f"see preflight.memlock: {said}")]
    image = site.plan.engine.image
    cause = f"Docker on {site.name} does not start a container of {image} as the plan wants it: {said}"
    # The line is the host's own text: it is not made part of a command that somebody pastes.
    return [
        bad(
            capture,
            said,
            cause=cause,
            fix="overspan doctor -   and that line on its standard input: it names the cause",
        )
    ]


def shared_memory(site: Site) -> list[Verdict]:
    """Shared memory of the container holds what NCCL, torch and the engine's queues share."""
    seen, capture = _look(site)
    cells = seen.value["shm"].split() if seen.value else []
    if len(cells) < 2 or not cells[1].isdigit():
        return [unknown(capture, seen.why or "the container does not tell the size of /dev/shm")]
    size = int(cells[1]) * 1024
    if size >= SHARED_BYTES:
        return [good(capture, f"shared memory: {gib(size)}")]
    cause = (
        f"shared memory in a container on {site.name} is {gib(size)}: NCCL and torch need more than {gib(SHARED_BYTES)}"
    )
    fix = f"take --ipc and --shm-size out of the options of host {site.name}, or: options: [--shm-size, 8g]"
    return [bad(capture, f"shared memory: {gib(size)}", cause=cause, fix=fix)]


def sees_gpus(site: Site) -> list[Verdict]:
    """The container sees every GPU that the plan uses here."""
    seen, capture = _look(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    said = seen.value.get("gpus", "")
    listed = said.count("GPU ")
    if listed > max((gpu.index for gpu in site.gpus), default=0):
        return [good(capture, said.rstrip(";"))]
    cause = f"a container on {site.name} sees {listed} GPUs, and the plan uses GPU "
    cause += ", ".join(str(gpu.index) for gpu in site.gpus)
    fix = f"take --gpus and NVIDIA_VISIBLE_DEVICES out of the options of host {site.name}; "
    fix += site.paste("sudo", "nvidia-ctk", "runtime", "configure", "--runtime=docker")
    return [bad(capture, said[:200] or "nothing", cause=cause, fix=fix)]


def sees_rdma(site: Site) -> list[Verdict]:
    """The container has the RDMA devices; without them NCCL takes sockets without a word."""
    seen, capture = _look(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    devices = seen.value.get("rdma", "").split()
    if any(device.startswith("uverbs") for device in devices):
        return [good(capture, " ".join(devices))]
    cause = f"a container on {site.name} has no /dev/infiniband/uverbs*: NCCL would go over TCP, many times slower"
    fix = f"options of host {site.name}: [--device, /dev/infiniband, --ulimit, memlock=-1]"
    return [bad(capture, " ".join(devices) or "no /dev/infiniband", cause=cause, fix=fix)]


def can_compile(site: Site) -> list[Verdict]:
    """Triton builds its launcher at the first step: the image has a C compiler and Python's headers."""
    seen, capture = _look(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    missing = [what for name, what in (("cc", "C compiler"), ("headers", "Python.h")) if not seen.value.get(name)]
    if not missing:
        return [good(capture, f"{seen.value['cc']}, {seen.value['headers'].strip()}")]
    cause = f"image {site.plan.engine.image} has no {' and no '.join(missing)}: Triton cannot build its launcher"
    fix = "an image with gcc and python3-dev; an environment of its own may hold the headers elsewhere"
    return [bad(capture, f"no {', no '.join(missing)}", cause=cause, fix=fix, severity="warning")]


def net_plugin(site: Site) -> list[Verdict]:
    """No other network plugin of NCCL takes over on a Spark, where it ends ncclCommInitRank before a word is logged."""
    seen, capture = _look(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    found = seen.value.get("plugin", "").strip()
    told = site.setting("NCCL_NET_PLUGIN")
    if not found or told == ["none"]:
        return [good(capture, f"NCCL_NET_PLUGIN={told[0]}" if told else "the image has no other network plugin")]
    cause = f"image {site.plan.engine.image} brings {found.split()[0]}, and NCCL_NET_PLUGIN is not none"
    return [bad(capture, found, cause=cause, fix="NCCL_NET_PLUGIN: none in env of the inventory", severity="warning")]


def disaggregated(site: Site) -> bool:
    """Whether KV caches go from one engine to another."""
    return site.docker and site.cuda and any(spec.role in {"prefill", "decode"} for spec in site.specs)


def moves_gpu_memory(site: Site) -> list[Verdict]:
    """The image's UCX knows CUDA memory, so that NIXL can register the KV cache."""
    seen, capture = _look(site)
    if seen.value is None or not seen.value.get("ucx"):
        return [unknown(capture, seen.why or "the image has no ucx_info")]
    if seen.value["ucx"] != "0":
        return [good(capture, f"ucx_info names cuda {seen.value['ucx']} times")]
    cause = f"UCX in image {site.plan.engine.image} knows no CUDA memory: NIXL cannot register the KV cache"
    fix = "take UCX_TLS out of env, or an image whose UCX was built with CUDA"
    return [bad(capture, "no cuda in ucx_info -d", cause=cause, fix=fix)]


def has_nvcc(site: Site) -> list[Verdict]:
    """FlashInfer and DeepGEMM build kernels at the first step where the image does not bring them."""
    seen, capture = _look(site)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    if seen.value.get("nvcc"):
        return [good(capture, seen.value["nvcc"])]
    cause = f"image {site.plan.engine.image} has no nvcc: a kernel that it does not bring cannot be built at first use"
    fix = "nothing, if it holds flashinfer-jit-cache and -cubin; else an image with the CUDA compiler"
    return [bad(capture, "no nvcc", cause=cause, fix=fix, severity="warning")]


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


def engine_imports(site: Site) -> list[Verdict]:
    """The image's torch and vLLM load here, and have code for these GPUs."""
    spec = next((spec for spec in site.specs if spec.image), None)
    argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", "python3"]
    argv += [*(spec.docker_options if spec else []), "--", site.plan.engine.image or "", "-c", _IMPORT]
    seen, capture = site.look(Fact("import", argv, parse_import))
    errors = [line for line in capture.stderr.splitlines() if re.match(r"\w*(?:Error|Exception)\b", line)]
    if errors and "ModuleNotFoundError" not in errors[-1]:
        cause = f"the image's engine does not load on {site.name}: {errors[-1][:200]}"
        fix = f"overspan doctor - <<< {errors[-1][:120]!r}   names the cause"
        return [bad(capture, errors[-1], cause=cause, fix=fix)]
    if seen.value is None or not seen.value.get("gpu"):
        return [unknown(capture, errors[-1] if errors else seen.why or "torch sees no GPU")]
    strange = [gpu for gpu in seen.value["gpu"] if not _has_code(gpu, seen.value["arch"])]
    told = f"torch has {' '.join(seen.value['arch'])}; the GPUs are sm_{', sm_'.join(seen.value['gpu'])}"
    if not strange:
        return [good(capture, told)]
    cause = f"the image's torch has no code for sm_{strange[0]} of {site.name}: 'no kernel image is available'"
    return [bad(capture, told, cause=cause, fix="an image that was built for this GPU")]


def _has_code(gpu: str, built: list[str]) -> bool:
    """Code runs on its own architecture and on later ones of the same major number; PTX on all later ones."""
    numbers = [re.fullmatch(r"(sm|compute)_(\d+)a?f?", arch) for arch in built]
    return any(
        found and int(found[2]) <= int(gpu) and (found[1] == "compute" or found[2][:-1] == gpu[:-1])
        for found in numbers
    )
