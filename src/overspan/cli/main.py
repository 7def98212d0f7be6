"""The entry point: finds the command, and turns an error into a message and an exit code."""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import click

from overspan import __version__
from overspan.cli.door import Door
from overspan.cli.output import show_error
from overspan.schema.errors import InputError, OverspanError, UnknownName

_DISK = "df -h; overspan prune --dry-run"
_WHERE = "look at the path; OVERSPAN_STATE and OVERSPAN_CACHE name other folders"
_REFUSED = {
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EIO: "look at the kernel's log: dmesg",
    errno.EROFS: _WHERE,
    errno.EACCES: _WHERE,
    errno.EPERM: _WHERE,
    errno.ENOTDIR: _WHERE,
    errno.EISDIR: _WHERE,
    errno.EEXIST: _WHERE,
    errno.EMFILE: "ulimit -n",
}
"""What a user can mend, and the next command. Source: errno(3)."""


class Listed(NamedTuple):
    """A command as `overspan --help` lists it, and an example of its use."""

    line: str
    example: str


# A module is imported when its command is called, so that `overspan --help` costs no more than click. The module of
# `NAME` is overspan.cli.NAME.
COMMANDS: dict[str, Listed] = {
    "detect": Listed(
        "Ask machines what they have and how they are connected; print an inventory.",
        "overspan detect --hosts spark1,spark2 > pair.yaml",
    ),
    "up": Listed(
        "Start a model, and wait until it gives a real token and a known answer.",
        "overspan up minimax-m2.5-nvfp4 --on pair.yaml",
    ),
    "join": Listed(
        "Start this host's ranks of a run that another host leads.",
        "overspan join spark1 minimax-m2.5-nvfp4 --on pair.yaml",
    ),
    "plan": Listed(
        "Show what would run, where, and the exact commands. Nothing is started.",
        "overspan plan minimax-m2.5-nvfp4 --on two-sparks --show commands",
    ),
    "predict": Listed(
        "Predict the latency of layouts, also for GPUs that you do not have.",
        "overspan predict minimax-m2.5 --gpu h200 --layout tep8 --concurrency 32",
    ),
    "calibrate": Listed(
        "Measure this machine for the planner, or let the planner learn from runs.",
        "overspan calibrate --out mine.yaml",
    ),
    "simulate": Listed(
        "Simulate a fleet of GPUs: how many requests keep the limits, and the cost.",
        "overspan simulate minimax-m2.5 --gpu h200 --fleet 10000 --slo tpot=30",
    ),
    "prove": Listed(
        "Prove without a GPU that a layout computes the right tokens.",
        "overspan prove minimax-m2.5-nvfp4 --layouts tp2,pp2dp2",
    ),
    "twin": Listed(
        "Write a small model that splits over ranks exactly as a real one does.",
        "overspan twin minimax-m2.5-nvfp4 --out twin",
    ),
    "status": Listed("Show the state of a run and of each of its processes.", "overspan status --watch"),
    "logs": Listed("Print the logs of a run.", "overspan logs -f --process worker1"),
    "verify": Listed(
        "Check that the answers of a run, or of any OpenAI endpoint, are right.",
        "overspan verify --base-url http://127.0.0.1:8000/v1",
    ),
    "chat": Listed(
        "Chat with a run. The answer is shown as it arrives.", 'overspan chat --prompt "Name three cities."'
    ),
    "report": Listed("Write one HTML file about a run, a sweep, or several runs.", "overspan report --out report.html"),
    "bench": Listed(
        "Measure a run, or any OpenAI endpoint, under load.",
        "overspan bench --concurrency 1,4,16,64 --input-tokens 1024 --output-tokens 256",
    ),
    "sweep": Listed(
        "Measure many topologies and loads. It goes on where it was interrupted.",
        "overspan sweep m3-gb200-1k1k --on gb200-nvl72 --dry-run",
    ),
    "compare": Listed(
        "Compare two runs or sweeps. Intervals separate a difference from noise.",
        "overspan compare ladder-A ladder-B",
    ),
    "export": Listed("Write the results of a sweep as CSV or Parquet.", "overspan export ladder --out points.csv"),
    "ledger": Listed(
        "Keep sweeps under version control. CI fails where a result has no recipe.",
        "overspan ledger check --base main",
    ),
    "doctor": Listed(
        "Name the cause and the fix of a failure, from a run or from any log.",
        "overspan doctor --log worker.log",
    ),
    "stop": Listed("Stop a run. Answers in progress end first.", "overspan stop --grace 30"),
    "list": Listed("List the runs of this machine.", "overspan list"),
    "prune": Listed(
        "Delete ended runs and cached models that were not used for a long time.", "overspan prune --dry-run"
    ),
    "recipe": Listed("List and show recipes; import those of other tools.", "overspan recipe show minimax-m2.5-nvfp4"),
    "inventory": Listed(
        "List, show and check inventories; print one to start from.", "overspan inventory example ssh > pair.yaml"
    ),
    "catalog": Listed("List the models and GPU kinds whose numbers ship.", "overspan catalog gpus"),
    "engine": Listed("Install, list and remove engines, each in its own environment.", "overspan engine install cpu"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order that a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = _load(f"overspan.cli.{cmd_name}")
        command = getattr(module, f"{cmd_name}_" if hasattr(builtins, cmd_name) else cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        command.epilog = f"\b\nExample:\n  {COMMANDS[cmd_name].example}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names; an unknown one tells the nearest."""
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise UnknownName("command", args[0], COMMANDS, next="overspan --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, listed.line) for name, listed in COMMANDS.items()])


def _load(module: str) -> ModuleType:
    """Import a command's module, without what would take a sixth of the time of `overspan plan`."""
    if "_OVERSPAN_COMPLETE" in os.environ:
        from overspan.cli.completion import load_quickly

        if (found := load_quickly(module)) is not None:
            return found
    # Pydantic asks each installed package for plugins, and imports the standard library's e-mail and sockets for it.
    # This process is ours and wants none; another version of pydantic may do without this module.
    no_plugins = ModuleType("pydantic.plugin._loader")
    vars(no_plugins)["get_plugins"] = tuple
    sys.modules.setdefault(no_plugins.__name__, no_plugins)
    gc.disable()  # what modules make as they load stays: there is no garbage among it
    loaded = importlib.import_module(module)
    gc.freeze()
    gc.enable()
    return loaded


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, prog_name="overspan")
def cli() -> None:
    """One model and any set of machines, to a running, proven and measured endpoint."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error ends with one message on stderr and its exit code."""
    with contextlib.redirect_stdout(Door(sys.stdout)), contextlib.redirect_stderr(Door(sys.stderr)):
        _run(sys.argv[1:] if argv is None else argv)


def _run(arguments: list[str]) -> None:
    try:
        code = cli.main(args=arguments, prog_name="overspan", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except (OverspanError, OSError, click.ClickException) as caught:
        refused = caught if isinstance(caught, OverspanError) else _refusal(caught, arguments)
        if "--json" in arguments:
            click.echo(json.dumps(refused.as_dict()))
        show_error(refused)
        sys.exit(refused.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _refusal(error: OSError | click.ClickException, arguments: Sequence[str]) -> OverspanError:
    """What click refuses, or the system does not do for this user, as one sentence; other errors are raised again."""
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context else "overspan"
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # a group without a command
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        what = error.format_message().rstrip(".")
        return InputError(f"{what[:1].lower()}{what[1:]}", next=f"{command} --help")
    if error.errno == errno.ENAMETOOLONG:
        return _too_long(error, arguments)
    if error.errno not in _REFUSED:
        raise error
    place = f"{error.filename}: " if error.filename else ""
    return InputError(f"{place}{error.strerror}", next=_REFUSED[error.errno])


def _too_long(error: OSError, arguments: Sequence[str]) -> OverspanError:
    """A name that no file can have, whichever command was to look for it."""
    of_the_file = [each for each in arguments if each in str(error.filename)]
    name = max(of_the_file or arguments, key=len, default="")
    before = ["", *arguments][arguments.index(name)] if arguments else ""
    option = f"{before} " if before.startswith("-") else ""
    what = f"{option}{name[:40]!r}... is too long for the name of a file: {len(name):,} characters"
    return InputError(what, next="give a name of at most 255 bytes, or the path of a file that exists")
