"""The engine: the same on every host, and nothing that the plan's own environment and arguments set wrongly for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from packaging.version import Version

from overspan.engines.base import Engine
from overspan.inventory.fact import Fact, Unreadable
from overspan.preflight.facts import (
    NOTHING,
    OVER_HOSTS,
    HostFacts,
    check,
    failed,
    group_check,
    not_asked,
    passed,
    side_by_side,
    unreadable,
)
from overspan.schema.errors import InputError
from overspan.schema.finding import Finding
from overspan.schema.versions import version_of

RAY_MONITOR: Final = "RAY_memory_monitor_refresh_ms"

MNNVL_KINDS: Final = ("gb200", "gb300")
"""GPUs whose NVLink goes over hosts. Source: docs.nvidia.com, GB200 and GB300 NVL72."""

_ASK: Final = (
    "from importlib.metadata import distributions as d; import platform, sys; "
    "print(*sorted({x.version for x in d() if x.metadata['Name'] in sys.argv[1:]}), sep=','); "
    "print(*sorted({x.version for x in d() if x.metadata['Name'] == 'ray'}), sep=','); "
    "print(platform.python_version())"
)
"""Reads metadata alone: importing vllm takes many seconds."""


@check("preflight.engine", when=lambda host: host.engine_is_here, cost="none: files of this machine are read")
def installed(host: HostFacts) -> Finding:
    """The engine is installed."""
    try:
        found = host.engine.choose(host.plan.recipe, host.plan.inventory, to_start=True)
    except InputError as error:
        return failed(None, error.what, cause=error.what, fix=error.next)
    return passed(None, f"{host.engine.title} {found.version}" + (f" in {found.environment}" * bool(found.environment)))


@group_check("preflight.host_ip", when=OVER_HOSTS, cost=NOTHING)
def own_addresses(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """VLLM_HOST_IP is each host's own. One value in a shared environment makes vLLM count too few nodes."""
    values = {host.name: host.setting("VLLM_HOST_IP") for host in hosts}
    for name, mine in values.items():
        alike = [other for other, theirs in values.items() if name != other and set(mine) & set(theirs)]
        told = ", ".join(mine) or "VLLM_HOST_IP is not set"
        if not alike:
            yield name, passed(None, told)
            continue
        cause = f"{name} and {', '.join(alike)} have one VLLM_HOST_IP, {mine[0]}: vLLM would count one node"
        fix = "take VLLM_HOST_IP out of env: each host has its own fabric address by itself"
        yield name, failed(None, told, cause=cause, fix=fix)


@check(
    "preflight.ray_memory",
    when=lambda host: bool(host.setting(RAY_MONITOR)) and any(gpu.unified_memory for gpu in host.gpus),
    cost=NOTHING,
)
def ray_memory_monitor(host: HostFacts) -> Finding:
    """Ray's memory monitor is off on unified memory. There it takes the GPU's share for the process's own and
    kills the worker."""
    values = host.setting(RAY_MONITOR)
    if not values:
        return not_asked("no process of Ray is planned here")
    if values == ["0"]:
        return passed(None, "RAY_memory_monitor_refresh_ms=0")
    told = f"RAY_memory_monitor_refresh_ms={', '.join(values)}"
    cause = f"Ray's memory monitor is on at {host.name}: on unified memory it kills workers while weights load"
    return failed(None, told, cause=cause, fix="take RAY_memory_monitor_refresh_ms out of env, or set it to 0")


@check(
    "preflight.native_version",
    when=lambda host: host.several and host.is_head and host.engine.waits_for_hosts_since is not None,
    cost=NOTHING,
)
def native_version(host: HostFacts) -> Finding:
    """Without Ray: the engine waits for workers of other hosts."""
    since, version = host.engine.waits_for_hosts_since, version_of(host.plan.engine.version)
    if since is None or version is None:
        return not_asked("the plan does not know the engine's version")
    holds = f"{host.engine.title} {host.plan.engine.version}"
    if version >= Version(since):
        return passed(None, holds)
    cause = f"{holds} over several hosts gives up while a slow worker compiles; {since} waits"
    fix = f"an image with a newer {host.engine.title}, or --set engine=vllm-ray"
    return failed(None, holds, cause=cause, fix=fix)


def tp_over_nvlink_hosts(host: HostFacts) -> bool:
    """Whether a tensor-parallel group spans hosts whose NVLink does so too."""
    spans = host.plan.layout.tp > host.ranks
    return spans and any(gpu.kind.lower().startswith(MNNVL_KINDS) for gpu in host.gpus)


@check("preflight.all_reduce", when=tp_over_nvlink_hosts, cost=NOTHING)
def custom_all_reduce(host: HostFacts) -> Finding:
    """vLLM's own all-reduce is off where TP spans hosts of one NVLink domain. vLLM takes such hosts for one and
    opens CUDA IPC handles between them."""
    if host.plan.recipe.engine_args.get("disable_custom_all_reduce") is True:
        return passed(None, "disable_custom_all_reduce")
    cause = "TP spans hosts of one NVLink domain: vLLM's own all-reduce dies there with 'invalid resource handle'"
    fix = "--set disable_custom_all_reduce=true"
    return failed(None, "custom all-reduce is on", cause=cause, fix=fix)


class Versions(NamedTuple):
    """What an environment holds. Ray's ranks are pickled from host to host: its and Python's versions count too."""

    engine: str
    ray: str
    python: str

    def text(self, engine: Engine) -> str:
        """For a person; equal where ranks can work together."""
        with_ray = engine.same_python
        return f"{engine.title} {self.engine}" + (
            f", Ray {self.ray or 'none'}, Python {self.python}" if with_ray else ""
        )


def parse_versions(text: str) -> Versions:
    """The three lines that the command prints."""
    engine, ray, python = ([line.strip() for line in text.splitlines()] + ["", "", ""])[:3]
    if not engine:
        raise Unreadable("the environment does not hold the engine")
    return Versions(engine, ray, python)


@group_check(
    "preflight.engine_version",
    when=lambda host: host.several and (not host.docker or host.plan.engine.environment is not None),
)
def same_engine(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """Every host has the same engine. Against the first host that tells one."""
    engine = hosts[0].engine
    environment, names = hosts[0].plan.engine.environment, engine.distributions
    if environment is None or not names:
        yield hosts[0].name, not_asked("the plan names no environment of the engine")
        return
    fact = Fact("engine_version", [f"{environment}/bin/python", "-c", _ASK, *names], parse_versions)
    asked = side_by_side(hosts, lambda host: host.look(fact))
    wanted = next((seen.value for _, (seen, _) in asked if seen.value), None)
    for host, (seen, capture) in asked:
        pip = f"{environment}/bin/pip"
        if seen.value is None and seen.absent and host.docker:
            found = unreadable(capture, "the environment is in the image, which is compared by id")
        elif seen.value is None and seen.absent:
            cause = f"{host.name} has no engine at {environment}"
            found = failed(capture, seen.why, cause=cause, fix=host.paste("overspan", "engine", "install"))
        elif seen.value is None or wanted is None:
            found = unreadable(capture, seen.why)
        elif engine.same_python and not seen.value.ray:
            cause = f"{host.name} has no Ray at {environment}, and the engine is {engine.name}"
            fix = host.paste(pip, "install", "ray[default]")
            found = failed(capture, seen.value.text(engine), cause=cause, fix=fix)
        elif seen.value.text(engine) != wanted.text(engine):
            here, there = seen.value.text(engine), wanted.text(engine)
            cause = f"{host.name} has {here}; {hosts[0].name} has {there}: ranks must have one version"
            pins = [f"{names[0]}=={wanted.engine}", *([f"ray[default]=={wanted.ray}"] if engine.same_python else [])]
            found = failed(capture, here, cause=cause, fix=host.paste(pip, "install", *pins))
        else:
            found = passed(capture, seen.value.text(engine))
        yield host.name, found
