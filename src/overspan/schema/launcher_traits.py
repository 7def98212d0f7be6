"""What a plan must know of a launcher before anything is started. Launchers of other packages state the same."""

from typing import Annotated, Final, Literal

from overspan.schema.base import Frozen
from overspan.schema.extensions import LAUNCHERS, known_name, load


class LauncherTraits(Frozen):
    """How a launcher starts processes.

    `here`: on this machine, as children of the run's supervisor.
    `containers`: `by_host` starts them on hosts whose inventory has `container`, where the recipe names an image.
    `chooses_hosts`: the inventory's hosts stand for machines that are known once the run has its place; until then
    `{address:HOST}` stands for an address in a process's arguments.
    `whole_nodes`: a machine is reserved with all its GPUs.
    """

    here: bool = False
    containers: Literal["never", "always", "by_host"] = "never"
    chooses_hosts: bool = False
    whole_nodes: bool = False


BUILT_IN: Final = {
    "local": LauncherTraits(here=True),
    "docker": LauncherTraits(containers="always"),
    "slurm": LauncherTraits(containers="by_host", chooses_hosts=True, whole_nodes=True),
}


def traits_of(name: str) -> LauncherTraits:
    """The traits of a launcher that `LauncherName` has let through."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = load(LAUNCHERS, name)
    if found is None:
        raise ValueError(f"launcher {name} is not installed")
    return LauncherTraits.model_validate(found.traits)


LauncherName = Annotated[str, known_name(LAUNCHERS, BUILT_IN)]
"""The name of a launcher that is built in or installed."""
