"""Docker on a host: does it answer, does it know the GPUs, how much memory may a container lock, has it the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from overspan.inventory import machine, probes, software
from overspan.inventory.fact import Capture, Fact, Seen
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

REGISTER_BYTES: Final = 2**30
"""Memory that RDMA must be able to lock. A choice: hosts have 64 KiB, 8 MB (both too small for NCCL's buffers) or no
limit, and this tells them apart."""


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
    seen, capture = host.look(machine.NVIDIA_SMI)
    if seen.value is None:
        cause = f"the NVIDIA driver of {host.name} does not answer: {seen.why}"
        fix = host.paste("sudo", "ubuntu-drivers", "install") if seen.absent else host.paste("nvidia-smi")
        return failed(capture, seen.why, cause=cause, fix=fix)
    missing = sorted({gpu.index for gpu in host.gpus} - {row.index for row in seen.value})
    told = ", ".join(f"{row.index}: {row.name}" for row in seen.value) or "none"
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
    argv = host.container("cat", "/proc/self/limits", options=_ulimits(host))
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
    host: HostFacts, name: str, seen: Seen[probes.Image], capture: Capture, first: tuple[HostFacts, probes.Image] | None
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
