"""Where no image carries the engine: its environment holds the same version on every host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from overspan.inventory.fact import Fact, Unreadable
from overspan.preflight.facts import HostFacts, failed, group_check, not_asked, passed, side_by_side, unreadable
from overspan.schema.base import Frozen
from overspan.schema.finding import Finding

_ASK: Final = (
    "from importlib.metadata import distributions as d; import platform, sys; "
    "print(*sorted({x.version for x in d() if x.metadata['Name'] in sys.argv[1:]}), sep=','); "
    "print(*sorted({x.version for x in d() if x.metadata['Name'] == 'ray'}), sep=','); "
    "print(platform.python_version())"
)
"""Reads metadata alone: importing vllm takes many seconds."""


class Versions(Frozen):
    """What an environment holds. Ray's ranks are pickled from host to host: its and Python's versions count too."""

    vllm: str
    ray: str = ""
    python: str = ""

    def text(self, with_ray: bool) -> str:
        """For a person; equal where ranks can work together."""
        return f"vLLM {self.vllm}" + (f", Ray {self.ray or 'none'}, Python {self.python}" if with_ray else "")


def parse_versions(text: str) -> Versions:
    """The three lines that the command prints."""
    lines = [*(line.strip() for line in text.splitlines()), "", "", ""]
    if not lines[0]:
        raise Unreadable("the environment holds no vllm")
    return Versions(vllm=lines[0], ray=lines[1], python=lines[2])


@group_check(
    "preflight.engine_version",
    when=lambda host: host.several and (not host.docker or host.plan.engine.environment is not None),
)
def same_engine(hosts: Sequence[HostFacts]) -> Iterator[tuple[str, Finding]]:
    """Every host has the same engine. Against the first host that tells one."""
    environment, names = hosts[0].plan.engine.environment, hosts[0].engine.distributions
    if environment is None or not names:
        yield hosts[0].name, not_asked("the plan names no environment of the engine")
        return
    with_ray = hosts[0].engine.same_python
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
        elif with_ray and not seen.value.ray:
            cause = f"{host.name} has no Ray at {environment}, and the engine is {hosts[0].engine.name}"
            fix = host.paste(pip, "install", "ray[default]")
            found = failed(capture, seen.value.text(with_ray), cause=cause, fix=fix)
        elif seen.value.text(with_ray) != wanted.text(with_ray):
            here, there = seen.value.text(with_ray), wanted.text(with_ray)
            cause = f"{host.name} has {here}; {hosts[0].name} has {there}: ranks must have one version"
            found = failed(capture, here, cause=cause, fix=host.paste(pip, "install", *_pins(wanted, with_ray)))
        else:
            found = passed(capture, seen.value.text(with_ray))
        yield host.name, found


def _pins(wanted: Versions, with_ray: bool) -> list[str]:
    return [f"vllm=={wanted.vllm}", *([f"ray[default]=={wanted.ray}"] if with_ray else [])]
