"""Engines and launchers of other packages, found by their entry points."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from pydantic import AfterValidator, ValidationInfo

from overspan.schema.errors import OverspanError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENGINES: Final = "overspan.engines"
"""Each entry names an object, see `overspan.engines.base.Engine`."""

LAUNCHERS: Final = "overspan.launchers"
"""Each entry names a class, see `overspan.launchers.base`."""

RECORDED: Final = {"recorded": True}
"""The context in which the record of a run is validated."""


def brought(group: str) -> "EntryPoints":
    """What other packages bring; asked only for a name that is not built in, since asking takes 30 ms."""
    from importlib.metadata import entry_points

    return entry_points(group=group)


def installed(group: str, name: str) -> "EntryPoint | None":
    """The extension of that name that another package brings."""
    return next(iter(brought(group).select(name=name)), None)


def load(group: str, name: str) -> Any:
    """What another package brings under that name, imported now; None where none does.

    Raises:
        OverspanError: its package is installed and cannot be imported; quotes why.
    """
    found = installed(group, name)
    try:
        return found and found.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise OverspanError(
            f"{name} of the entry points {group} cannot be imported",
            quote=f"{type(error).__name__}: {error}",
            next=f"install its package anew: {found.dist.name if found and found.dist else found}",
        ) from None


def known_name(group: str, built_in: Collection[str]) -> AfterValidator:
    """Text that names what is built in or installed; another name is an error that tells the known ones.

    The record of a run holds whatever was installed then: it is read, and the run can be stopped, without it.
    """

    def check(name: str, info: ValidationInfo) -> str:
        if name not in built_in and info.context != RECORDED and installed(group, name) is None:
            *names, last = [*built_in, *sorted(brought(group).names)]
            hint = did_you_mean(name, [*names, last]).removeprefix(": ")
            quoted = ", ".join(f"'{each}'" for each in names)
            raise ValueError(f"expected {quoted} or '{last}'{f'; {hint}' if hint else ''}")
        return name

    return AfterValidator(check)
