"""What a person would paste to do by hand what the launcher does."""

from __future__ import annotations

import shlex

from overspan.launchers import slurm_commands as commands
from overspan.launchers.docker_commands import docker_run
from overspan.runs.launchers import hosts_of, slurm_of
from overspan.schema.inventory import ContainerRuntime
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec


def slurm_commands(plan: Plan, specs: list[ProcessSpec], run: str = "by-hand") -> str:
    """The whole job as text for a shell: the submission, the batch script, and each step that it starts."""
    hosts = hosts_of(plan)
    site = slurm_of(plan)
    folder = f"{site.folder or '$HOME/overspan'}/runs/{run}"
    containers = {host.name: host.container for host in hosts}
    gpus, cores = max(len(host.gpus) for host in hosts), max(host.cores for host in hosts)
    submission = commands.sbatch(site, run, folder, [host.name for host in hosts], gpus=gpus, cores=cores)
    steps = [f"# {spec.name} on {spec.host}\n{_step(spec, run, containers.get(spec.host))}" for spec in specs]
    return "\n\n".join([f"# the allocation\n{shlex.join(submission)}", f"# {folder}/batch.sh\n{batch()}", *steps])


def _step(spec: ProcessSpec, run: str, container: ContainerRuntime | None) -> str:
    return "\n".join([*_secrets(spec), shlex.join(commands.step(spec, run, container))])


def batch() -> str:
    """The job's script."""
    return commands.batch_script().rstrip("\n")


def commands_of(spec: ProcessSpec, run: str = "by-hand") -> str:
    """One process as text for a shell: for people only, nothing of ours runs it."""
    return "\n".join([f"# {spec.name} on {spec.host}", *_secrets(spec), *_body(spec, run)])


def _secrets(spec: ProcessSpec) -> list[str]:
    return [f"# {name} is set from a file that only you can read" for name in spec.secrets]


def _body(spec: ProcessSpec, run: str) -> list[str]:
    if spec.image is not None:
        return [shlex.join(docker_run(spec, run))]
    return [*(f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()), shlex.join(spec.argv)]
