"""What a person would paste to do by hand what the launcher does."""

from __future__ import annotations

import shlex

from overspan.launchers.docker_commands import docker_run
from overspan.schema.process import ProcessSpec


def commands_of(spec: ProcessSpec, run: str = "by-hand") -> str:
    """One process as text for a shell: for people only, nothing of ours runs it."""
    return "\n".join([f"# {spec.name} on {spec.host}", *secrets_of(spec), *_body(spec, run)])


def secrets_of(spec: ProcessSpec) -> list[str]:
    """A remark for each secret that the process is given: its name, never its value."""
    return [f"# {name} is set from a file that only you can read" for name in spec.secrets]


def _body(spec: ProcessSpec, run: str) -> list[str]:
    if spec.image is not None:
        return [shlex.join(docker_run(spec, run))]
    return [*(f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()), shlex.join(spec.argv)]
