"""Where no image carries the engine: its environment holds the same version on every host."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.inventory.fact import Fact, Unreadable
from overspan.preflight.site import Site, Verdict, bad, good, unknown, untold
from overspan.schema.base import Frozen

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


def same_engine(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """The version on each host, against the first that tells one."""
    environment, names = sites[0].plan.engine.environment, sites[0].engine.distributions
    if environment is None or not names:
        return [(sites[0].name, untold("the plan names no environment of the engine"))]
    with_ray = sites[0].engine.same_python
    fact = Fact("engine_version", [f"{environment}/bin/python", "-c", _ASK, *names], parse_versions)
    with ThreadPoolExecutor(len(sites)) as pool:
        seen = list(pool.map(lambda site: site.look(fact), sites))
    pairs = list(zip(sites, seen, strict=True))
    wanted = next((found.value for _, (found, _) in pairs if found.value), None)
    verdicts = []
    for site, (found, capture) in pairs:
        if found.value is None and found.absent and site.docker:
            verdicts.append((site.name, unknown(capture, "the environment is in the image, which is compared by id")))
        elif found.value is None and found.absent:
            cause = f"{site.name} has no engine at {environment}"
            fix = site.paste("overspan", "engine", "install")
            verdicts.append((site.name, bad(capture, found.why, cause=cause, fix=fix)))
        elif found.value is None:
            verdicts.append((site.name, unknown(capture, found.why)))
        elif with_ray and not found.value.ray:
            cause = f"{site.name} has no Ray at {environment}, and the engine is {sites[0].engine.name}"
            fix = site.paste(f"{environment}/bin/pip", "install", "ray[default]")
            verdicts.append((site.name, bad(capture, found.value.text(with_ray), cause=cause, fix=fix)))
        elif wanted is not None and found.value.text(with_ray) != wanted.text(with_ray):
            here, there = found.value.text(with_ray), wanted.text(with_ray)
            cause = f"{site.name} has {here}; {sites[0].name} has {there}: ranks must have one version"
            fix = site.paste(f"{environment}/bin/pip", "install", *_pins(wanted, with_ray))
            verdicts.append((site.name, bad(capture, here, cause=cause, fix=fix)))
        else:
            verdicts.append((site.name, good(capture, found.value.text(with_ray))))
    return verdicts


def _pins(wanted: Versions, with_ray: bool) -> list[str]:
    return [f"vllm=={wanted.vllm}", *([f"ray[default]=={wanted.ray}"] if with_ray else [])]
