"""GPUs in depth: the NVSwitch fabric, faults, paths between them, and a driver that is new enough for the image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from overspan.inventory.fact import Fact, Unreadable
from overspan.preflight.engine import MNNVL_KINDS
from overspan.preflight.facts import ON_GPUS, ON_GPUS_IN_DOCKER, HostFacts, check, failed, not_asked, passed, unreadable
from overspan.schema.finding import Finding
from overspan.schema.units import count
from overspan.schema.versions import holds
from overspan.transport.docker import image_inspect

CHANNEL: Final = "/dev/nvidia-caps-imex-channels/channel0"
DONE: Final = frozenset({"Completed", "N/A"})


@dataclass(frozen=True)
class Details:
    """What `nvidia-smi -q` says of all GPUs. `fabric` holds state and status of each; `uncorrectable` is since boot."""

    cuda: str | None
    driver: str | None
    fabric: list[tuple[str, str]]
    uncorrectable: int


def parse_details(text: str) -> Details:
    """The header, and of each GPU the blocks `Fabric` and `ECC Errors`, `Volatile`."""
    if "NVSMI LOG" not in text:
        raise Unreadable(f"no log of nvidia-smi: {text.strip()[:80]!r}")
    cuda = re.search(r"^CUDA Version\s*: (\d+(?:\.\d+)*)", text, re.MULTILINE)
    driver = re.search(r"^Driver Version\s*: (\S+)", text, re.MULTILINE)
    fabric = re.findall(r"^ +Fabric\n +State +: (.+)\n +Status +: (.+)$", text, re.MULTILINE)
    volatile = re.findall(r"^ +Volatile\n((?: +\S.*: .*\n)+?)(?: +Aggregate|\s*$)", text, re.MULTILINE)
    counts = [int(count) for block in volatile for count in re.findall(r"Uncorrectable\S* .*: (\d+)", block)]
    return Details(
        cuda[1] if cuda else None,
        driver[1] if driver else None,
        [(a.strip(), b.strip()) for a, b in fabric],
        sum(counts),
    )


DETAILS: Final = Fact("gpu_details", ["nvidia-smi", "-q"], parse_details)


@check("preflight.nvswitch", when=ON_GPUS)
def fabric_manager(host: HostFacts) -> Finding:
    """The GPUs have joined their NVSwitch fabric. Until then CUDA says error 802."""
    seen, capture = host.read(DETAILS)
    waiting = [f"{state} ({status})" for state, status in seen.fabric if state not in DONE or status == "Failure"]
    if not waiting:
        return passed(capture, f"fabric: {', '.join(sorted({state for state, _ in seen.fabric})) or 'none'}")
    have = "has" if len(waiting) == 1 else "have"
    cause = f"{count(len(waiting), 'GPU')} of {host.name} {have} not joined the NVSwitch fabric: {waiting[0]}; "
    cause += "CUDA says error 802"
    fix = host.paste("sudo", "systemctl", "restart", "nvidia-fabricmanager")
    return failed(capture, ", ".join(waiting), cause=cause, fix=fix)


@check("preflight.ecc", when=ON_GPUS)
def memory_errors(host: HostFacts) -> Finding:
    """No uncorrectable memory error of a GPU."""
    seen, capture = host.read(DETAILS)
    if not seen.uncorrectable:
        return passed(capture, "no uncorrectable memory error")
    errors = count(seen.uncorrectable, "uncorrectable memory error")
    cause = f"the GPUs of {host.name} had {errors} since the driver was loaded"
    fix = host.paste("sudo", "nvidia-smi", "--gpu-reset")
    fix += "   with nothing on them; a GPU that does so again is broken"
    return failed(capture, count(seen.uncorrectable, "uncorrectable error"), cause=cause, fix=fix)


XID: Final = Fact("xid", ["journalctl", "-k", "-b", "-q", "--no-pager", "-g", "NVRM: Xid"], str.splitlines)


@check("preflight.xid", when=ON_GPUS)
def faults(host: HostFacts) -> Finding:
    """The kernel's log has no fault of a GPU."""
    seen, capture = host.look(XID)
    lines = [line for line in seen.value or [] if "NVRM: Xid" in line]
    if lines:
        cause = f"the driver of {host.name} reported {count(len(lines), 'fault')} of a GPU since boot, the last: "
        cause += lines[-1][-160:]
        fix = host.paste("nvidia-smi") + "   must list every GPU; else reboot"
        return failed(capture, lines[-1], cause=cause, fix=fix, severity="warning")
    if capture.missing is not None or capture.stderr.strip() or capture.code not in {0, 1}:
        return unreadable(capture, capture.missing or capture.stderr.strip() or seen.why)
    return passed(capture, "no Xid since boot")


def parse_topology(text: str) -> dict[tuple[int, int], str]:
    """`nvidia-smi topo -p2p r`: a matrix with a row and a column a GPU, `X` on the diagonal."""
    rows = [line.split() for line in text.splitlines() if re.match(r"\s*GPU\d+\s+\S", line)]
    if not rows or not all(cell.startswith("GPU") for cell in rows[0]):
        raise Unreadable("no matrix of GPUs")
    columns = [int(cell[3:]) for cell in rows[0]]
    return {
        (int(row[0][3:]), column): state
        for row in rows[1:]
        for column, state in zip(columns, row[1:], strict=False)
        if int(row[0][3:]) != column
    }


TOPOLOGY: Final = Fact("p2p", ["nvidia-smi", "topo", "-p2p", "r"], parse_topology)


@check("preflight.p2p", when=lambda host: host.cuda and len(host.gpus) > 1)
def peers(host: HostFacts) -> Finding:
    """GPUs of one host read each other's memory."""
    seen, capture = host.read(TOPOLOGY)
    mine = {gpu.index for gpu in host.gpus}
    apart = [f"GPU{a}-GPU{b}: {how}" for (a, b), how in seen.items() if {a, b} <= mine and a < b and how != "OK"]
    if not apart:
        return passed(capture, f"{len(mine)} GPUs reach each other")
    cause = f"GPUs of {host.name} do not reach each other's memory ({apart[0]}): "
    cause += "collectives go through the host's, slowly"
    fix = "NCCL_P2P_DISABLE=1 in env if it hangs; else IOMMU and ACS off in the firmware"
    return failed(capture, ", ".join(apart), cause=cause, fix=fix, severity="warning")


def parse_env(text: str) -> dict[str, str]:
    """One `NAME=value` a line."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


@check("preflight.driver", when=ON_GPUS_IN_DOCKER)
def driver(host: HostFacts) -> Finding:
    """The driver is new enough for the image. The image itself tells which CUDA and driver it asks for."""
    image = host.plan.engine.image
    if image is None:
        return not_asked("the plan names no image")
    argv = image_inspect(image, "{{range .Config.Env}}{{println .}}{{end}}")
    asked, of_image = host.look(Fact("image_env", argv, parse_env))
    seen, capture = host.look(DETAILS)
    if asked.value is None or seen.value is None or seen.value.cuda is None:
        return unreadable(of_image if asked.value is None else capture, asked.why or seen.why or "no CUDA version")
    requirement = asked.value.get("NVIDIA_REQUIRE_CUDA", "")
    have = seen.value.cuda
    if not requirement:
        return passed(of_image, f"the image asks for nothing; the driver knows CUDA {have}")
    if satisfied(requirement, seen.value.cuda, seen.value.driver or ""):
        return passed(of_image, f"the image asks for {requirement.split()[0]}; the driver knows CUDA {have}")
    cause = f"image {image} asks for {requirement.split()[0]}; driver {seen.value.driver} of {host.name} knows "
    cause += f"CUDA {have}"
    fix = f"a newer driver on {host.name}, or an image for CUDA {have}"
    return failed(of_image, requirement[:200], cause=cause, fix=fix)


def satisfied(requirement: str, cuda: str, driver: str) -> bool:
    """As nvidia-container-cli reads it: one of the clauses between spaces, all of the conditions between commas.

    A brand is taken to fit: a driver that is named for one brand is as new on the others.
    """
    have = {"cuda": cuda, "driver": driver}

    def met(condition: str) -> bool:
        found = re.fullmatch(r"(cuda|driver)((?:>=|<=|<|>|=)[\d.]+)", condition)
        return holds(found[2], have[found[1]]) if found else condition.startswith("brand=")

    return any(all(map(met, clause.split(","))) for clause in requirement.split())


def over_nvlink(host: HostFacts) -> bool:
    """Whether the plan spans hosts of an NVLink domain."""
    return host.several and any(gpu.kind.lower().startswith(MNNVL_KINDS) for gpu in host.gpus)


@check("preflight.imex", when=over_nvlink, cost="two commands")
def imex(host: HostFacts) -> Finding:
    """The NVLink domain between hosts is up."""
    _, channel = host.look(Fact("imex_channel", ["test", "-w", CHANNEL], str))
    if channel.code != 0:
        cause = f"{host.name} has no {CHANNEL} that this user may write: NCCL and UCX fall back, or die"
        fix = host.paste("sudo", "nvidia-modprobe", "-c", "0") + "   and systemctl start nvidia-imex"
        return failed(channel, f"test -w ended with {channel.code}", cause=cause, fix=fix)
    seen, capture = host.read(Fact("imex", ["nvidia-imex-ctl", "-N"], str.strip))
    if re.search(r"Domain State: *UP", seen):
        return passed(capture, "Domain State: UP")
    cause = f"the IMEX domain of {host.name} is not up"
    fix = host.paste("sudo", "systemctl", "restart", "nvidia-imex") + "   on every host of the domain"
    return failed(capture, seen[-200:], cause=cause, fix=fix)


def wants_peer_memory(host: HostFacts) -> bool:
    """Whether experts talk over DeepEP, whose RDMA the GPU itself drives."""
    backend = str(host.plan.recipe.engine_args.get("all2all_backend", ""))
    return host.cuda and any("deepep" in value for value in (backend, *host.setting("VLLM_ALL2ALL_BACKEND")))


@check("preflight.peermem", when=wants_peer_memory)
def peer_memory(host: HostFacts) -> Finding:
    """DeepEP's RDMA can read GPU memory."""
    seen, capture = host.read(Fact("modules", ["cat", "/proc/modules"], str.split))
    if "nvidia_peermem" in seen:
        return passed(capture, "nvidia_peermem is loaded")
    cause = f"nvidia_peermem is not loaded on {host.name}: NVSHMEM (DeepEP) cannot register GPU memory"
    fix = host.paste("sudo", "modprobe", "nvidia-peermem")
    return failed(capture, "no nvidia_peermem", cause=cause, fix=fix, severity="warning")
