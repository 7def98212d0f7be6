"""Everything that a launch needs, on the hosts that need it: the image, and the model at the same path everywhere."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from overspan.engines import patches
from overspan.launchers.registry import LOGIN, hosts_of, slurm_launcher, slurm_of, transports_of
from overspan.provision import images, models, shared
from overspan.provision.folders import copy_folder
from overspan.provision.solid import solid
from overspan.schema.errors import InputError
from overspan.schema.inventory import Host, Slurm
from overspan.schema.plan import Plan
from overspan.store.locks import Say
from overspan.store.run_folder import RunFolder
from overspan.transport.local import Local
from overspan.transport.reach import reach
from overspan.transport.stream import End

_ENVIRONMENT = "name it in the inventory: engine_environment"


def stage_model(plan: Plan, say: Say) -> tuple[Plan, models.PreparedModel | None]:
    """The plan with the model's path on every host.

    Where the inventory says where the model is on its hosts, it is taken from there and nothing is fetched; the head's
    files are brought to the hosts that lack them. Otherwise it is made ready on this machine first.
    """
    known = plan.inventory.models.get(plan.recipe.model)
    if known is not None and not Path(known).is_dir():
        if not known.startswith("/"):
            raise InputError(
                f"models of inventory {plan.inventory.name}: {known!r} is no folder of this machine, and no whole path",
                next=f"name the folder as the hosts have it, like /srv/models/{Path(known).name}",
            )
        return plan.with_(model_path=known), None
    recipe = plan.recipe.with_(model=known, package=None) if known else plan.recipe
    model = models.prepare(recipe, say=say)
    path = solid(model.path) if plan.inventory.launcher == "docker" else model.path
    return plan.with_(model_path=str(path), model_digest=model.digest), model


def check_slurm(run: RunFolder, plan: Plan) -> None:
    """Ask Slurm whether it would take the job, before anything is fetched for it.

    Raises:
        InputError: it would not; quotes it.
    """
    if plan.inventory.launcher != "slurm":
        return
    transports = transports_of(plan)
    with closing(transports[LOGIN]):
        slurm_launcher(run, plan, transports).check()


def stage_slurm(run: RunFolder, plan: Plan, say: Say) -> Plan:
    """The plan with what the nodes will find: the imported image, the weights' place. All of it is checked now.

    Raises:
        InputError: weights or image are not there.
    """
    site, transports = slurm_of(plan), transports_of(plan)
    login = transports[LOGIN]
    try:
        launcher = slurm_launcher(run, plan, transports)
        if plan.model_path is not None:
            shared.check_weights(login, plan.model_path)
        changes = local_copy(site, plan)
        container = hosts_of(plan)[0].container
        if plan.engine.image and container is not None and container.kind == "enroot":
            folder = images_folder(site, launcher.folder.rsplit("/", 2)[0])
            image = shared.import_image(login, plan.engine.image, folder, say)
            changes["engine"] = plan.engine.with_(image=image)
        return plan.with_(**changes)
    finally:
        login.close()


def images_folder(site: Slurm, folder: str) -> str:
    """Where imported images are. `folder`: the one that the nodes share."""
    return site.images or f"{folder}/images"


def local_copy(site: Slurm, plan: Plan) -> dict[str, object]:
    """What changes in a plan whose weights go to each node's own disk; nothing where none do."""
    if plan.model_path is None or not site.local_models:
        return {}
    target = f"{site.local_models}/{plan.model_digest or Path(plan.model_path).name}"
    return {"model_path": target, "model_source": plan.model_path}


def apply_patches(plan: Plan, say: Say) -> None:
    """Change the engine's files as the recipe asks, where the engine is an environment of this machine or of a Slurm's.

    Raises:
        InputError: an anchor is missing or ambiguous; nothing was changed.
    """
    if not plan.recipe.patches or plan.engine.image is not None:
        return  # a container has its own files, and is patched as it starts
    if plan.engine.environment is None:
        raise InputError("the recipe has patches, and the engine's environment is not known", next=_ENVIRONMENT)
    transports = transports_of(plan)
    place = transports.get(LOGIN) or transports[hosts_of(plan)[0].name]
    try:
        done = place.run(patches.apply(f"{plan.engine.environment}/bin/python", plan.recipe.patches), timeout_s=60.0)
    finally:
        for transport in transports.values():
            transport.close()
    for line in done.stderr.splitlines():
        say(line)
    if done.code != 0:
        said = done.stderr.strip().splitlines()
        raise InputError("the engine cannot be patched; nothing was changed", quote=said[-1] if said else None)


def stage_hosts(plan: Plan, prepared_here: bool, say: Say) -> None:
    """Bring image and model to every host that lacks them, once, over the fabric where the hosts reach each other.

    Raises:
        HostUnreachable: a host does not answer.
        InputError: no host has the image or the model.
    """
    if plan.inventory.launcher != "docker":
        return
    if plan.engine.image is None or plan.model_path is None:
        raise InputError("a launch in containers needs an image and a model")
    ends = [End(host, reach(host)) for host in hosts_of(plan)]
    try:
        for host in images.same_image(ends, plan.engine.image, say=say):
            say(f"image {plan.engine.image} was copied to {host}")
        here = End(Host(name="localhost", memory_bytes=1), Local())
        source = here if prepared_here else ends[0]
        for end in ends:
            if end is source or (end.host.ssh is None and source is here):
                continue
            copied = copy_folder(source, end, plan.model_path, say=say)
            if copied.files:
                say(f"{len(copied.files)} files of the model were copied to {end.host.name}")
            source = end if source is here and end.host.fabric else source
    finally:
        for end in ends:
            end.transport.close()
