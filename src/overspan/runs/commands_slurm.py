"""What a person would paste to have Slurm do what the launcher has it do."""

from __future__ import annotations

import shlex

from overspan.launchers import slurm_commands as commands
from overspan.runs.commands import secrets_of
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
    batch = f"# {folder}/batch.sh\n{commands.batch_script().rstrip()}"
    return "\n\n".join([f"# the allocation\n{shlex.join(submission)}", batch, *steps])


def _step(spec: ProcessSpec, run: str, container: ContainerRuntime | None) -> str:
    return "\n".join([*secrets_of(spec), shlex.join(commands.step(spec, run, container))])
