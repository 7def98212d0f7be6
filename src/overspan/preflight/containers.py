"""Docker on a host: does it answer, does it know the GPUs, how much memory may a container lock, has it the image."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from overspan.inventory import machine, probes, software
from overspan.inventory.fact import Capture, Fact, Seen
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold

REGISTER_BYTES = 2**30
"""Memory that RDMA must be able to lock. A choice: hosts have 64 KiB, 8 MB (both too small for NCCL's buffers) or no
limit, and this tells them apart."""


def docker(site: Site) -> list[Verdict]:
    """The engine answers."""
    seen, capture = site.look(software.DOCKER)
    if seen.value is None:
        fix = site.paste("sudo", "systemctl", "start", "docker")
        if seen.absent:
            fix = site.paste("sudo", "apt-get", "install", "docker.io")
        elif "permission denied" in seen.why.lower():
            fix = site.paste("sh", "-c", 'sudo usermod -aG docker "$USER"') + "   then log in again"
        return [bad(capture, seen.why, cause=f"no Docker engine answers on {site.name}: {seen.why}", fix=fix)]
    return [good(capture, f"Docker {seen.value.version}")]


def gpu_runtime(site: Site) -> list[Verdict]:
    """The engine can give GPUs to containers."""
    seen, capture = site.look(software.DOCKER)
    if seen.value is None:
        return [unknown(capture, f"the engine does not answer: {seen.why}")]
    if seen.value.gpu:
        return [good(capture, "the NVIDIA runtime, or GPUs as CDI devices, are known to Docker")]
    return [
        bad(
            capture,
            f"Docker {seen.value.version} lists no runtime 'nvidia' and no CDI device nvidia.com/gpu",
            cause=f"containers on {site.name} would see no GPU: the NVIDIA container toolkit is not set up in Docker",
            fix=site.paste("sudo", "nvidia-ctk", "runtime", "configure", "--runtime=docker")
            + "   then "
            + site.paste("sudo", "systemctl", "restart", "docker"),
        )
    ]


def gpus(site: Site) -> list[Verdict]:
    """The driver answers and has every GPU that the plan uses."""
    seen, capture = site.look(machine.NVIDIA_SMI)
    if seen.value is None:
        cause = f"the NVIDIA driver of {site.name} does not answer: {seen.why}"
        fix = site.paste("sudo", "ubuntu-drivers", "install") if seen.absent else site.paste("nvidia-smi")
        return [bad(capture, seen.why, cause=cause, fix=fix)]
    there = {row.index for row in seen.value}
    missing = sorted({gpu.index for gpu in site.gpus} - there)
    told = ", ".join(f"{row.index}: {row.name}" for row in seen.value) or "none"
    if missing:
        cause = f"the plan uses GPU {', '.join(map(str, missing))} of {site.name}, which has {told}"
        return [bad(capture, told, cause=cause, fix=f"overspan detect --hosts {address(site)} > inventory.yaml")]
    return [good(capture, told)]


def address(site: Site) -> str:
    """What `--hosts` takes for this host."""
    ssh = site.host.ssh
    if ssh is None:
        return "localhost"
    user = f"{ssh.user}@" if ssh.user else ""
    name = f"[{ssh.address}]" if ":" in ssh.address else ssh.address
    return f"{user}{name}{f':{ssh.port}' if ssh.port != 22 else ''}"


def locks_memory(site: Site) -> bool:
    """Whether this plan needs locked memory here: RDMA between hosts, or a container that is told to have it."""
    return (site.several and site.cuda) or any("memlock" in option for option in _ulimits(site))


def memlock(site: Site) -> list[Verdict]:
    """A process may lock the memory that RDMA registers; in a container, with this plan's own options."""
    options = _ulimits(site)
    capture, seen = _container_limits(site, options) if site.docker else _session_limits(site)
    if seen.value is None:
        if "rlimit" in seen.why or "ulimit" in seen.why:
            cause = f"{site.name} does not let a container have the limit that the plan asks for: {seen.why}"
            fix = "take --ulimit memlock=-1 out of the host's container.options, or raise the hard limit: "
            fix += site.paste("sudo", "systemctl", "edit", "docker") + "   with [Service] LimitMEMLOCK=infinity"
            return [bad(capture, seen.why, cause=cause, fix=fix)]
        return [unknown(capture, seen.why)]
    soft = seen.value.memlock_soft_bytes
    told = "unlimited" if soft == probes.UNLIMITED else f"{soft} bytes"
    if soft == probes.UNLIMITED or soft >= REGISTER_BYTES:
        return [good(capture, f"locked memory: {told}")]
    rdma = bool(site.host.fabric and site.host.fabric.hcas) or any(nic.rdma_device for nic in site.host.nics)
    fix = f"add to host {site.name} in the inventory: container: {{options: [--ulimit, memlock=-1]}}"
    if not site.docker:
        fix = site.paste("sudo", "sh", "-c", "echo '* - memlock unlimited' > /etc/security/limits.d/99-rdma.conf")
    return [
        bad(
            capture,
            f"locked memory: {told}",
            cause=f"a process on {site.name} may lock only {told}: RDMA cannot register its buffers, and NCCL fails or "
            "falls back to sockets",
            fix=fix,
            severity="error" if rdma else "warning",
        )
    ]


def _ulimits(site: Site) -> list[str]:
    """The `--ulimit` options of this plan's containers."""
    found: list[str] = []
    for spec in site.specs:
        words = [*spec.docker_options, ""]
        for word, after in pairwise(words):
            found += [f"--ulimit={after}"] if word == "--ulimit" else [word] if word.startswith("--ulimit=") else []
    return list(dict.fromkeys(found))


def _session_limits(site: Site) -> tuple[Capture, Seen[probes.Limits]]:
    seen, capture = site.look(probes.LIMITS)
    return capture, seen


def _container_limits(site: Site, options: list[str]) -> tuple[Capture, Seen[probes.Limits]]:
    """Asked inside a container of the plan's image: the engine's own limits are what counts, not the session's."""
    image = site.plan.engine.image or ""
    argv = ["docker", "run", "--rm", "--pull", "never", "--network", "none", *options]
    argv += ["--entrypoint", "cat", "--", image, "/proc/self/limits"]
    seen, capture = site.look(Fact("limits", argv, probes.parse_limits))
    lines = [line for line in capture.stderr.splitlines() if line.startswith("docker: ") or "rror" in line]
    return capture, seen if seen.value is not None or not lines else Seen(None, lines[0])


def same_image(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """Every host has the image, and it is one and the same."""
    name = sites[0].plan.engine.image
    if name is None:
        return [(sites[0].name, untold("the plan names no image"))]
    with ThreadPoolExecutor(len(sites)) as pool:
        seen = list(pool.map(lambda site: site.look(probes.image(name)), sites))
    pairs = list(zip(sites, seen, strict=True))
    source = next(((site, found.value) for site, (found, _) in pairs if found.value), None)
    if source is None:
        return [(site.name, _no_image(site, name, capture, found.why)) for site, (found, capture) in pairs]
    return [(site.name, _image_verdict(site, name, found, capture, source)) for site, (found, capture) in pairs]


def _no_image(site: Site, name: str, capture: Capture, why: str) -> Verdict:
    if capture.missing is not None or "no such" not in why.lower():
        return unknown(capture, why)
    cause = f"{site.name} has no image {name}, and no other host of the plan has it"
    return bad(capture, why, cause=cause, fix=site.paste("docker", "pull", name))


def _image_verdict(
    site: Site, name: str, seen: Seen[probes.Image], capture: Capture, first: tuple[Site, probes.Image]
) -> Verdict:
    source, wanted = first
    copy = f"{source.paste('docker', 'save', '--', name)} | {site.paste('docker', 'load')}"
    if seen.value is None:
        if capture.missing is not None or "no such" not in seen.why.lower():
            return unknown(capture, seen.why)
        return bad(capture, seen.why, cause=f"{site.name} has no image {name}; {source.name} has it", fix=copy)
    if seen.value.id != wanted.id:
        cause = f"image {name} on {site.name} is {seen.value.id[:19]}, on {source.name} {wanted.id[:19]}: ranks of "
        cause += "different engines do not understand each other"
        return bad(capture, seen.value.id, cause=cause, fix=copy)
    return good(capture, seen.value.id)
