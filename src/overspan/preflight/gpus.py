"""GPUs in depth: the NVSwitch fabric, faults, paths between them, and a driver that is new enough for the image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from overspan.inventory.fact import Fact, Unreadable
from overspan.preflight.settings import MNNVL_KINDS
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold

CHANNEL: Final = "/dev/nvidia-caps-imex-channels/channel0"
DONE: Final = frozenset({"Completed", "N/A"})


@dataclass(frozen=True)
class Details:
    """What `nvidia-smi -q` says of all GPUs. `fabric` holds state and status of each; `uncorrectable` is since boot."""

    cuda: tuple[int, ...] | None
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
    numbers = tuple(int(part) for part in cuda[1].split(".")) if cuda else None
    return Details(numbers, driver[1] if driver else None, [(a.strip(), b.strip()) for a, b in fabric], sum(counts))


DETAILS: Final = Fact("gpu_details", ["nvidia-smi", "-q"], parse_details)


def fabric_manager(site: Site) -> list[Verdict]:
    """GPUs behind NVSwitch have joined their fabric; until then CUDA says error 802."""
    seen, capture = site.look_once(DETAILS)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    waiting = [f"{state} ({status})" for state, status in seen.value.fabric if state not in DONE or status == "Failure"]
    if not waiting:
        return [good(capture, f"fabric: {', '.join(sorted({state for state, _ in seen.value.fabric})) or 'none'}")]
    cause = f"{len(waiting)} GPUs of {site.name} have not joined the NVSwitch fabric: {waiting[0]}; CUDA says error 802"
    fix = site.paste("sudo", "systemctl", "restart", "nvidia-fabricmanager")
    return [bad(capture, ", ".join(waiting), cause=cause, fix=fix)]


def memory_errors(site: Site) -> list[Verdict]:
    """No uncorrectable memory error since the driver was loaded."""
    seen, capture = site.look_once(DETAILS)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    count = seen.value.uncorrectable
    if not count:
        return [good(capture, "no uncorrectable memory error")]
    cause = f"the GPUs of {site.name} had {count} uncorrectable memory errors since the driver was loaded"
    fix = (
        site.paste("sudo", "nvidia-smi", "--gpu-reset") + "   with nothing on them; a GPU that does so again is broken"
    )
    return [bad(capture, f"{count} uncorrectable errors", cause=cause, fix=fix)]


XID: Final = Fact("xid", ["journalctl", "-k", "-b", "-q", "--no-pager", "-g", "NVRM: Xid"], str.splitlines)


def faults(site: Site) -> list[Verdict]:
    """The kernel's log of this boot names no fault of a GPU (Xid)."""
    seen, capture = site.look(XID)
    lines = [line for line in seen.value or [] if "NVRM: Xid" in line]
    if lines:
        cause = (
            f"the driver of {site.name} reported {len(lines)} faults of a GPU since boot, the last: {lines[-1][-160:]}"
        )
        fix = site.paste("nvidia-smi") + "   must list every GPU; else reboot"
        return [bad(capture, lines[-1], cause=cause, fix=fix, severity="warning")]
    if capture.missing is not None or capture.stderr.strip() or capture.code not in {0, 1}:
        return [unknown(capture, capture.missing or capture.stderr.strip() or seen.why)]
    return [good(capture, "no Xid since boot")]


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


def peers(site: Site) -> list[Verdict]:
    """The plan's GPUs of one host read each other's memory."""
    seen, capture = site.look(TOPOLOGY)
    if seen.value is None:
        return [unknown(capture, seen.why)]
    mine = {gpu.index for gpu in site.gpus}
    apart = [f"GPU{a}-GPU{b}: {how}" for (a, b), how in seen.value.items() if {a, b} <= mine and a < b and how != "OK"]
    if not apart:
        return [good(capture, f"{len(mine)} GPUs reach each other")]
    cause = (
        f"GPUs of {site.name} do not reach each other's memory ({apart[0]}): collectives go through the host's, slowly"
    )
    fix = "NCCL_P2P_DISABLE=1 in env if it hangs; else IOMMU and ACS off in the firmware"
    return [bad(capture, ", ".join(apart), cause=cause, fix=fix, severity="warning")]


def parse_env(text: str) -> dict[str, str]:
    """One `NAME=value` a line."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def driver(site: Site) -> list[Verdict]:
    """The driver is new enough for the image's CUDA, as the image itself asks for it."""
    image = site.plan.engine.image
    if image is None:
        return [untold("the plan names no image")]
    argv = ["docker", "image", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", "--", image]
    asked, of_image = site.look(Fact("image_env", argv, parse_env))
    seen, capture = site.look_once(DETAILS)
    if asked.value is None or seen.value is None or seen.value.cuda is None:
        return [unknown(of_image if asked.value is None else capture, asked.why or seen.why or "no CUDA version")]
    requirement = asked.value.get("NVIDIA_REQUIRE_CUDA", "")
    have = ".".join(map(str, seen.value.cuda))
    if not requirement:
        return [good(of_image, f"the image asks for nothing; the driver knows CUDA {have}")]
    if satisfied(requirement, seen.value.cuda, seen.value.driver or ""):
        return [good(of_image, f"the image asks for {requirement.split()[0]}; the driver knows CUDA {have}")]
    cause = (
        f"image {image} asks for {requirement.split()[0]}; driver {seen.value.driver} of {site.name} knows CUDA {have}"
    )
    fix = f"a newer driver on {site.name}, or an image for CUDA {have}"
    return [bad(of_image, requirement[:200], cause=cause, fix=fix)]


def satisfied(requirement: str, cuda: tuple[int, ...], version: str) -> bool:
    """As nvidia-container-cli reads it: one of the clauses between spaces, all of the conditions between commas.

    A brand is taken to fit: a driver that is named for one brand is as new on the others.
    """
    have = {"cuda": cuda, "driver": tuple(map(int, re.findall(r"\d+", version)))}

    def holds(condition: str) -> bool:
        found = re.fullmatch(r"(cuda|driver)(>=|<=|<|>|=)([\d.]+)", condition)
        if found is None:
            return condition.startswith("brand=")
        wanted = tuple(map(int, found[3].split(".")))
        mine = have[found[1]][: len(wanted)]
        return {
            ">=": mine >= wanted,
            "<=": mine <= wanted,
            "<": mine < wanted,
            ">": mine > wanted,
            "=": mine == wanted,
        }[found[2]]

    return any(all(map(holds, clause.split(","))) for clause in requirement.split())


def over_nvlink(site: Site) -> bool:
    """Whether the plan spans hosts of an NVLink domain."""
    return site.several and any(gpu.kind.lower().startswith(MNNVL_KINDS) for gpu in site.gpus)


def imex(site: Site) -> list[Verdict]:
    """The channel over which hosts of one NVLink domain share memory is there, and its domain is up."""
    _, channel = site.look(Fact("imex_channel", ["test", "-w", CHANNEL], str))
    if channel.code != 0:
        cause = f"{site.name} has no {CHANNEL} that this user may write: NCCL and UCX fall back, or die"
        fix = site.paste("sudo", "nvidia-modprobe", "-c", "0") + "   and systemctl start nvidia-imex"
        return [bad(channel, f"test -w ended with {channel.code}", cause=cause, fix=fix)]
    seen, capture = site.look(Fact("imex", ["nvidia-imex-ctl", "-N"], str.strip))
    if seen.value is None:
        return [unknown(capture, seen.why)]
    if re.search(r"Domain State: *UP", seen.value):
        return [good(capture, "Domain State: UP")]
    cause = f"the IMEX domain of {site.name} is not up"
    fix = site.paste("sudo", "systemctl", "restart", "nvidia-imex") + "   on every host of the domain"
    return [bad(capture, seen.value[-200:], cause=cause, fix=fix)]


def wants_peer_memory(site: Site) -> bool:
    """Whether experts talk over DeepEP, whose RDMA the GPU itself drives."""
    backend = str(site.plan.recipe.engine_args.get("all2all_backend", ""))
    return site.cuda and any("deepep" in value for value in (backend, *site.setting("VLLM_ALL2ALL_BACKEND")))


def peer_memory(site: Site) -> list[Verdict]:
    """The module with which an RDMA device reads GPU memory is loaded."""
    seen, capture = site.look(Fact("modules", ["cat", "/proc/modules"], str.split))
    if seen.value is None:
        return [unknown(capture, seen.why)]
    if "nvidia_peermem" in seen.value:
        return [good(capture, "nvidia_peermem is loaded")]
    cause = f"nvidia_peermem is not loaded on {site.name}: NVSHMEM (DeepEP) cannot register GPU memory"
    fix = site.paste("sudo", "modprobe", "nvidia-peermem")
    return [bad(capture, "no nvidia_peermem", cause=cause, fix=fix, severity="warning")]
