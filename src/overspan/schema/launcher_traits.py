"""What a plan must know of a launcher before anything is started. Launchers of other packages state the same."""

from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator

from overspan.schema.base import Frozen

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP: Final = "overspan.launchers"
"""The entry points by which other packages bring launchers: each names a class, see `overspan.launchers.base`."""


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


def _brought() -> "EntryPoints":
    """What other packages bring; asked only for a name that is not built in, since asking takes 30 ms."""
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def installed(name: str) -> "EntryPoint | None":
    """The launcher of that name that another package brings."""
    return next(iter(_brought().select(name=name)), None)


def traits_of(name: str) -> LauncherTraits:
    """The traits of a launcher that `LauncherName` has let through."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    found = installed(name)
    if found is None:
        raise ValueError(f"launcher {name} is not installed")
    return LauncherTraits.model_validate(found.load().traits)


def _known(name: str) -> str:
    if name not in BUILT_IN and installed(name) is None:
        *names, last = (f"'{each}'" for each in [*BUILT_IN, *sorted(_brought().names)])
        raise ValueError(f"expected {', '.join(names)} or {last}")
    return name


LauncherName = Annotated[str, AfterValidator(_known)]
"""The name of a launcher that is built in or installed."""
