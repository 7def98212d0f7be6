"""Options that several commands share, and the planner's question that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from overspan.planner.answer import PlanQuestion
    from overspan.schema.prediction import Demand

Function = TypeVar("Function", bound=Callable[..., Any])
Option = Callable[[Function], Function]


class Finite(click.FloatRange):
    """A number in a range, never endless and never none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; click's own range lets NaN and infinity pass."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


class NewFile(click.Path):
    """A file to write. What it needs is asked before any work is done for it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path.

        Raises:
            InputError: there is no such folder, the file is one, or the system refuses it.
        """
        import tempfile

        from overspan.schema.errors import InputError
        from overspan.schema.paste import command

        out = Path(str(super().convert(value, param, ctx)))
        option, folder = param.opts[0] if param else "", out.parent.absolute()
        try:
            if not folder.is_dir():
                raise InputError(f"{option} {out}: there is no folder {folder}", next=command("mkdir", "-p", folder))
            if out.is_dir():
                raise InputError(f"{option} {out}: that is a folder", next="give the path of a file")
            # A name as long as that of a file that is being written (write_whole): a full one is refused here.
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{out.name}.", suffix=".probe.probe"):
                pass
        except OSError as error:
            raise InputError(
                f"{option} {out}: {error.strerror}", next="give the path of a file that can be written"
            ) from None
        return out


COUNT = click.IntRange(min=1)
NEW_FILE = NewFile()
POSITIVE = Finite(0, min_open=True)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)

AS_JSON: Option[Any] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
ON: Option[Any] = click.option(
    "--on", "inventory", metavar="INVENTORY", help="Machines: a file, or a name that ships. Default: this machine."
)
SET: Option[Any] = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field or an engine argument."
)
LOAD: Sequence[Option[Any]] = (
    click.option("--isl", type=Finite(1), help="Input tokens of a request. Default: 1024."),
    click.option("--osl", type=Finite(1), help="Output tokens of a request. Default: 1024."),
    click.option("--concurrency", type=COUNT, help="Users at the same time. Default: 1."),
    click.option("--slo", metavar="ttft=MS,tpot=MS", help="Latency limits. Layouts that keep them come first."),
)
MACHINES: Sequence[Option[Any]] = (
    click.option("--gpu", metavar="KIND", help="Plan for machines with this GPU (or a hardware YAML), not for --on."),
    click.option("--nodes", type=click.IntRange(1, 10_000), help="With --gpu: hosts. Default: as many as needed."),
    click.option("--gpus", type=click.IntRange(1, 72), help="With --gpu: GPUs of each host. Default: as usual."),
    click.option("--how-many", is_flag=True, help="With --gpu and --slo: find the fewest GPUs that keep the limits."),
    click.option("--top", type=COUNT, default=5, help="Layouts to show."),
)
HARDWARE: Option[Any] = click.option(
    "--hardware", metavar="FILE", help="Hardware numbers of `overspan calibrate`, in place of the catalogue's."
)
WEIGHTS: Option[Any] = click.option(
    "--weights",
    type=click.Choice(["real", "synthetic"]),
    default="real",
    help="synthetic: random weights made on the device, to measure at full size before the download.",
)


def options(*groups: Sequence[Option[Any]]) -> Option[Any]:
    """A decorator with all options of some groups, in their order."""

    def decorate(function: Any) -> Any:
        for group in reversed(groups):
            for option in reversed(group):
                function = option(function)
        return function

    return decorate


def demand_of(isl: float | None, osl: float | None, concurrency: int | None) -> Demand | None:
    """The load that was asked for; None when nothing of it was."""
    from overspan.schema.prediction import Demand

    given = {"isl": isl, "osl": osl, "concurrency": concurrency}
    stated = {name: value for name, value in given.items() if value is not None}
    return Demand.model_validate(stated) if stated else None


def question_of(
    name: str, *, isl: float | None, osl: float | None, concurrency: int | None, **asked: Any
) -> PlanQuestion:
    """The planner's question, from a command's options."""
    from overspan.planner.answer import PlanQuestion

    return PlanQuestion(name=name, demand=demand_of(isl, osl, concurrency), **asked)
