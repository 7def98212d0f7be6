"""What a person would paste to have Slurm do what the launcher has it do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from overspan.launchers import slurm_commands as commands
from overspan.launchers.registry import hosts_of, slurm_of
from overspan.launchers.staging import images_folder, local_copy
from overspan.provision.shared import image_file
from overspan.render.commands import secrets_of
from overspan.schema.inventory import ContainerRuntime
from overspan.schema.plan import Plan
from overspan.schema.process import ProcessSpec

_FOLDER = "$HOME/overspan"
_IN_DOUBLE_QUOTES = re.compile(r"[A-Za-z0-9_=/.$-]+")


def as_submitted(plan: Plan) -> Plan:
    """The plan as staging will make it, of what is known without asking: the model's place and the imported image."""
    site = slurm_of(plan)
    known = plan.inventory.models.get(plan.recipe.model)
    plan = plan.with_(model_path=known) if known is not None and known.startswith("/") else plan
    changes = local_copy(site, plan)
    container = hosts_of(plan)[0].container
    image = plan.engine.image
    if image and not image.startswith("/") and container is not None and container.kind == "enroot":
        held = image_file(image, images_folder(site, site.folder or _FOLDER))
        changes["engine"] = plan.engine.with_(image=held)
    return plan.with_(**changes)


def slurm_commands(plan: Plan, specs: list[ProcessSpec], run: str = "by-hand") -> str:
    """The whole job as text for a shell: the submission, the batch script, and each step that it starts."""
    hosts = hosts_of(plan)
    site = slurm_of(plan)
    folder = f"{site.folder or _FOLDER}/runs/{run}"
    containers = {host.name: host.container for host in hosts}
    gpus, cores = max(len(host.gpus) for host in hosts), max(host.cores for host in hosts)
    submission = commands.sbatch(site, run, folder, [host.name for host in hosts], gpus=gpus, cores=cores)
    copies = []
    if plan.model_source and plan.model_path:
        copy = commands.Copy(plan.model_source, plan.model_path)
        copies = [f"# weights to the disk of {host.name}\n{_text(commands.stage(host.name, copy))}" for host in hosts]
    steps = [f"# {spec.name} on {spec.host}\n{_step(spec, run, containers.get(spec.host))}" for spec in specs]
    batch = f"# {folder}/batch.sh\n{commands.batch_script().rstrip()}"
    return "\n\n".join([f"# the allocation\n{_text(submission)}", batch, *copies, *steps])


def _step(spec: ProcessSpec, run: str, container: ContainerRuntime | None) -> str:
    return "\n".join([*secrets_of(spec), _text(commands.step(spec, run, container))])


def _text(argv: Sequence[str]) -> str:
    """As `shlex.join`, but for the home folder, which the shell is to fill in."""
    return " ".join(f'"{word}"' if _is_home(word) else shlex.quote(word) for word in argv)


def _is_home(word: str) -> bool:
    here = word.find(_FOLDER)
    return here >= 0 and word.count("$") == 1 and _IN_DOUBLE_QUOTES.fullmatch(word) is not None
