"""Options that several commands share, and the planner's question that they make."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from overspan.schema.defaults import USUAL_INPUT_TOKENS, USUAL_OUTPUT_TOKENS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from overspan.planner.answer import PlanQuestion
    from overspan.schema.workload import Demand

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
            if out.exists() and not out.is_file() and os.access(out, os.W_OK):
                return out  # a device or a pipe: it is written into, and nothing beside it
            # A name as long as that of a file that is being written (write_whole): a full one is refused here.
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{out.name}.", suffix=".probe.probe"):
                pass
        except OSError as error:
            raise InputError(
                f"{option} {out}: {error.strerror}", next="give the path of a file that can be written"
            ) from None
        return out


class Names(click.types.StringParamType):
    """Text that the shell completes with names of some kinds (`completion.names`); where none begins so, with files."""

    def __init__(self, *kinds: str, name: str = "text") -> None:
        self.kinds = kinds
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin with what is typed."""
        from click.shell_completion import CompletionItem

        from overspan.cli.completion import names

        found = sorted({name for kind in self.kinds for name in names(kind) if name.startswith(incomplete)})
        return [CompletionItem(name) for name in found] or [CompletionItem(incomplete, type="file")]


MODEL = Names("recipes", "models")
INVENTORY = Names("inventories", name="inventory")
GPU = Names("hardware", name="kind")
RUN = Names("runs")
MEASURED = Names("runs", "sweeps-here")
COUNT = click.IntRange(min=1)
NEW_FILE = NewFile()
POSITIVE = Finite(0, min_open=True)
FILE = click.Path(path_type=Path, dir_okay=False)
PATH = click.Path(path_type=Path)

AS_JSON: Option[Any] = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
ON: Option[Any] = click.option(
    "--on",
    "inventory",
    type=INVENTORY,
    metavar="INVENTORY",
    help="Machines: a file, or a name that ships. Default: this machine.",
)
SET: Option[Any] = click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a field or an engine argument."
)
PROMPTS = "Prompt length: N, uniform:A-B, normal:MEAN,DEV or file:PATH."
ANSWERS = "Answer length, in the same forms."
LOAD: Sequence[Option[Any]] = (
    click.option("--input-tokens", "--isl", metavar="LENGTH", help=f"{PROMPTS} Default: {USUAL_INPUT_TOKENS}."),
    click.option("--output-tokens", "--osl", metavar="LENGTH", help=f"{ANSWERS} Default: {USUAL_OUTPUT_TOKENS}."),
    click.option("--concurrency", "-c", type=COUNT, help="Users at the same time. Default: 1."),
    click.option("--rate", "rate_per_s", type=POSITIVE, help="Requests per second, in place of users (open loop)."),
    click.option("--requests", "-n", type=COUNT, help="Requests in all. Default: 4 for each user and 16 at least."),
    click.option("--slo", metavar="ttft=MS,tpot=MS", help="Latency limits. Layouts that keep them come first."),
)
MACHINES: Sequence[Option[Any]] = (
    click.option("--gpu", type=GPU, help="Plan for machines with this GPU (or a hardware YAML), not for --on."),
    click.option("--nodes", type=click.IntRange(1, 10_000), help="With --gpu: hosts. Default: as many as needed."),
    click.option("--gpus", type=click.IntRange(1, 72), help="With --gpu: GPUs of each host. Default: as usual."),
    click.option("--how-many", is_flag=True, help="With --gpu and --slo: find the fewest GPUs that keep the limits."),
    click.option("--top", type=COUNT, default=5, help="Layouts to show."),
)
HARDWARE: Option[Any] = click.option(
    "--hardware",
    type=GPU,
    metavar="FILE",
    help="Hardware numbers of `overspan calibrate`, in place of the catalogue's.",
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


def demand_of(
    input_tokens: str | None,
    output_tokens: str | None,
    concurrency: int | None,
    rate_per_s: float | None = None,
    requests: int | None = None,
) -> Demand | None:
    """The load that was asked for, as `overspan bench` takes the same words; None when nothing of it was asked.

    Raises:
        InputError: users and a rate exclude each other, or a length is none.
    """
    from overspan.schema.errors import InputError
    from overspan.schema.workload import REQUESTS_A_USER, Demand, Workload

    if (input_tokens, output_tokens, concurrency, rate_per_s, requests) == (None,) * 5:
        return None
    if concurrency and rate_per_s:
        raise InputError("--concurrency and --rate exclude each other", next="give one of them")
    users = None if rate_per_s else concurrency or 1
    (isl, inputs), (osl, outputs) = _length(input_tokens, "--input-tokens"), _length(output_tokens, "--output-tokens")
    load = Workload(
        requests=requests or 1,
        requests_a_user=None if requests else REQUESTS_A_USER,
        arrival="poisson" if rate_per_s else "closed",
        input_lengths=inputs,
        output_lengths=outputs,
    )
    stated = {name: value for name, value in (("isl", isl), ("osl", osl), ("concurrency", concurrency)) if value}
    derived = load.demand(users, rate_per_s).model_dump(exclude={"isl", "osl", "concurrency"})
    return Demand.model_validate(derived | stated)


def _length(notation: str | None, option: str) -> tuple[float | None, str | None]:
    """The mean of a length, and how it is drawn where it is."""
    from overspan.bench.lengths import parse_lengths
    from overspan.schema.errors import InputError

    if notation is None:
        return None, None
    if re.fullmatch(r"\d{1,7}\.\d+", notation) and float(notation) >= 1:  # a mean that was measured
        return float(notation), None
    try:
        lengths = parse_lengths(notation)
    except InputError as error:
        raise InputError(f"{option}: {error.what}", next=error.next) from None
    return lengths.mean, None if lengths.notation.strip().isdigit() else lengths.notation


def question_of(
    name: str,
    *,
    input_tokens: str | None,
    output_tokens: str | None,
    concurrency: int | None,
    rate_per_s: float | None,
    requests: int | None,
    **asked: Any,
) -> PlanQuestion:
    """The planner's question, from a command's options."""
    from overspan.planner.answer import PlanQuestion

    demand = demand_of(input_tokens, output_tokens, concurrency, rate_per_s, requests)
    return PlanQuestion(name=name, demand=demand, **asked)
